"""Every rule: which lines break it, and which similar code does not."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import pytest
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.mongo_client import MongoClient

from flask_migrate_mongo.lint import facts
from flask_migrate_mongo.lint.linter import Linter, owned_by
from flask_migrate_mongo.lint.rules import BY_CODE, RULES
from tests.project import ROOT

from .linted import DOWN, HEAD, NAME, confined, found, plain, up

if TYPE_CHECKING:
    from pathlib import Path


class Case(NamedTuple):
    """A file. `# HIT` at the end of a line marks a finding."""

    code: str
    source: str
    name: str = NAME


MODELS = "from pymongo import DeleteMany, IndexModel, InsertOne, ReplaceOne, UpdateMany, UpdateOne"

HITS = (
    # --- files that cannot be used
    Case("MM000", "def up(db:  # HIT\n"),
    Case("MM000", "name = 1  # HIT\n\n\ndef up(db):\n    pass\n"),
    Case("MM000", "x = 1  # HIT\n"),
    # --- rolling back
    Case("MM001", up("db.users.find_one()", down="").replace("ctx):", "ctx):  # HIT")),
    Case("MM001", "down = None\n\n\ndef up(db):  # HIT\n    db.users.find_one()\n"),
    Case("MM002", up("db.users.find_one()", down="\n\ndef down(db):  # HIT\n    pass\n")),
    Case("MM002", up("db.users.find_one()", down='\n\ndef down(db):  # HIT\n    """No."""\n    return None\n')),
    Case("MM002", up("db.users.find_one()", down='\n\ndef down(db, ctx):  # HIT\n    ctx.log.info("no")\n')),
    Case("MM002", up("db.users.find_one()", down="\n\ndef down(db):  # HIT\n    raise NotImplementedError\n")),
    # --- many documents
    Case("MM003", up('db.users.update_many({}, {"$set": {"a": 1}})  # HIT')),
    Case("MM003", up("users = db.get_collection('users').with_options()\nusers.delete_many(filter={})  # HIT")),
    Case("MM003", up("db.users.bulk_write([UpdateMany({}, {'$set': {'a': 1}})])  # HIT").replace(HEAD, HEAD + MODELS + "\n")),
    Case("MM003", up("clear(db['users'])", down="\n\ndef clear(people):\n    people.delete_many(ALL)  # HIT\n\n\nALL = {}\n" + DOWN)),
    Case("MM003", up("pass", down="\n\ndef down(db):\n    db.users.update_many({}, {'$unset': {'a': ''}})  # HIT\n")),
    Case("MM004", up("users = list(db.users.find())  # HIT")),
    Case("MM004", up("cursor = db.users.find({'a': 1}).sort('b')\nids = [u['_id'] for u in cursor]  # HIT")),
    Case("MM004", up("users = db.users.find().to_list()  # HIT")),
    Case("MM004", up("by_id = dict((u['_id'], u) for u in db.users.find())  # HIT")),
    Case("MM005", up("for u in db.users.find():\n    db.users.update_one({'_id': u['_id']}, {'$set': {'a': 1}})  # HIT")),
    Case(
        "MM005",
        up(
            "people = db.users\nfor n, u in enumerate(list(people.find({'a': 1}))):\n    change(people, u)",
            down="\n\ndef change(users, u):\n    users.replace_one({'_id': u['_id']}, u)  # HIT\n" + DOWN,
        ),
    ),
    Case("MM005", up("[db.people.insert_one(u) for u in db.users.find()]  # HIT")),
    # --- transactions
    Case("MM006", confined("db.users.create_index('a')  # HIT\ndb.users.rename('people')  # HIT")),
    Case("MM006", confined("db.drop_collection('users')  # HIT\ndb.command('collMod', 'users')  # HIT")),
    Case("MM006", confined("db.command({'collMod': 'users'})  # HIT")),
    Case("MM006", confined("db.users.aggregate([{'$match': {}}, {'$out': 'people'}])  # HIT")),
    Case("MM006", confined("if 'a_1' in db.users.index_information():  # HIT\n    db.users.drop_index('a_1')  # HIT")),
    Case("MM009", plain("with db.client.start_session() as s, s.start_transaction():  # HIT\n    db.users.find_one({}, session=s)")),
    Case("MM009", confined("session = db.client.start_session()\nsession.with_transaction(lambda s: None)  # HIT")),
    Case("MM010", plain("with db.client.start_session() as s:\n    with s.start_transaction():\n        db.users.insert_one({'a': 1})  # HIT")),
    Case("MM010", plain("s = db.client.start_session()\ns.start_transaction()\ndb.users.delete_one({'a': 1})  # HIT\ns.commit_transaction()\ndb.users.find_one()")),
    Case(
        "MM010",
        up(
            "with db.client.start_session() as s:\n    s.with_transaction(lambda s: change(db, s))",
            down="\n\ndef change(db, s):\n    db.users.find_one({}, session=s)\n    db.users.delete_one({'a': 1})  # HIT\n" + DOWN,
        ),
    ),
    Case("MM023", confined("ctx.backfill('users', {'$set': {'a': 1}})  # HIT")),
    Case("MM023", confined("go = ctx.backfill\ngo(db.users, lambda u: {'$set': {'a': 1}}, where={'a': None})  # HIT")),
    Case("MM024", confined("try:\n    db.users.insert_one({'_id': 1})\nexcept DuplicateKeyError:  # HIT\n    ctx.log.info('there')")),
    Case("MM024", confined("with contextlib.suppress(Exception):  # HIT\n    db.users.insert_one({'_id': 1})").replace(HEAD, HEAD + "import contextlib\n")),
    Case("MM024", confined("try:\n    db.users.insert_one({'_id': 1})\nexcept:  # HIT\n    db.users.find_one()")),
    Case("MM026", confined("users = db.get_collection('users', write_concern=ACK)  # HIT\nusers.insert_one({'a': 1})")),
    Case("MM026", up("fast = db.users.with_options(write_concern=WriteConcern(w=0))  # HIT\nfast.insert_one({'a': 1})").replace(HEAD, HEAD + "from pymongo import WriteConcern\n")),
    Case("MM015", plain("db.users.insert_one({'a': 1})\ndb.users.insert_one({'a': 2})").replace("ctx):", "ctx):  # HIT")),
    Case("MM015", plain("db.users.insert_one({'a': 1})\ndb.users.create_index('a')").replace("ctx):", "ctx):  # HIT")),
    Case("MM015", plain("for name in ('a', 'b'):\n    db[name].drop()").replace("ctx):", "ctx):  # HIT")),
    # --- indexes
    Case("MM007", up("db.users.create_index('email', unique=True)  # HIT")),
    Case("MM007", up("db.users.find_one({'name': 1})\ndb.users.create_index([('email', 1)], unique=True)  # HIT")),
    Case("MM007", up("db.users.create_indexes([IndexModel('email', unique=True)])  # HIT").replace(HEAD, HEAD + MODELS + "\n")),
    Case("MM007", up("db.people.distinct('email')\ndb.users.create_index('email', unique=True)  # HIT")),
    Case("MM007", up("db.users.insert_one({'email': 'a'})\ndb.users.create_index('email', unique=True)  # HIT")),
    Case("MM029", up("db.users.create_index('seen', expireAfterSeconds=3600)  # HIT")),
    Case("MM029", up("db.users.create_indexes([IndexModel('seen', expireAfterSeconds=0)])  # HIT").replace(HEAD, HEAD + MODELS + "\n")),
    # --- deleted data
    Case("MM008", up("db.people.drop()  # HIT")),
    Case("MM008", up("db.drop_collection('people')  # HIT\ndb.client.drop_database('old')  # HIT")),
    Case("MM008", up("db.people.update_many({'a': {'$exists': True}}, {'$unset': {'a': ''}})  # HIT")),
    Case("MM008", up("db.people.update_many({'a': {'$ne': 1}}, [{'$unset': ['a', 'b']}])  # HIT")),
    Case("MM008", up("db.people.bulk_write([UpdateOne({'_id': 1}, {'$unset': {'a': 1}})])  # HIT").replace(HEAD, HEAD + MODELS + "\n")),
    Case("MM008", up("ctx.backfill('people', {'$unset': {'a': ''}})  # HIT")),
    Case("MM008", up("db.people.update_many({'a': {'$ne': 1}}, [{'$set': {'b': '$c'}}, {'$unset': 'a'}])  # HIT")),
    # --- other things than the database
    Case("MM011", up("client = MongoClient('mongodb://b')  # HIT\nclient.shop.users.find_one()").replace(HEAD, HEAD + "from pymongo import MongoClient\n")),
    Case("MM011", HEAD + "import pymongo\n\nOTHER = pymongo.MongoClient()  # HIT\n\n\ndef up(db):\n    OTHER.shop.users.find_one()\n" + DOWN),
    Case("MM012", up("User.objects.first()").replace(HEAD, HEAD + "from shop.models import User  # HIT\n")),
    Case("MM012", up("import shop  # HIT\nshop.run()")),
    Case("MM012", up("pass").replace(HEAD, HEAD + "from .. import models  # HIT\nfrom ..shop import db as _  # HIT\nfrom flask import current_app  # HIT\n")),
    Case("MM013", HEAD + "ROWS = open('rows.json').read()  # HIT\n\n\ndef up(db):\n    pass\n" + DOWN),
    Case("MM013", HEAD + "import tools\n\ntools.prepare()  # HIT\n\n\ndef up(db):\n    pass\n" + DOWN),
    Case("MM013", HEAD + "import requests\n\nif True:\n    DATA = requests.get('https://a')  # HIT\n\n\ndef up(db):\n    pass\n" + DOWN),
    Case("MM013", HEAD + "from shop import create_app\n\napp = create_app()  # HIT\n\n\ndef up(db):\n    pass\n" + DOWN),
    Case("MM013", HEAD + "def rows():\n    return open('a').read()  # HIT\n\n\nROWS = rows()\n\n\ndef up(db):\n    pass\n" + DOWN),
    Case("MM019", up("time.sleep(1)  # HIT").replace(HEAD, HEAD + "import time\n")),
    Case("MM019", up("wait()  # HIT").replace(HEAD, HEAD + "from time import sleep as wait\n")),
    Case("MM020", up("Thread(target=print).start()  # HIT").replace(HEAD, HEAD + "from threading import Thread\n")),
    Case("MM020", confined("with futures.ThreadPoolExecutor() as pool:  # HIT\n    pool.map(db.users.insert_one, [])").replace(HEAD, HEAD + "from concurrent import futures\n")),
    Case("MM020", up("subprocess.run(['mongoimport'])  # HIT").replace(HEAD, HEAD + "import subprocess\n")),
    # --- what is written
    Case("MM021", up("db.users.insert_one({'a': 1}, bypass_document_validation=True)  # HIT")),
    Case("MM021", up("db.users.aggregate([{'$out': 'b'}], bypass_document_validation=True)  # HIT")),
    Case("MM022", up("db.users.delete_many({'$where': 'this.a > this.b'})  # HIT")),
    Case("MM022", up("db.users.aggregate([{'$set': {'a': {'$function': {'body': 'x'}}}}])  # HIT")),
    Case("MM022", up("Code('function () {}')  # HIT").replace(HEAD, HEAD + "from bson.code import Code\n")),
    Case("MM028", up("db.users.update_one({'_id': 1}, {'a': 1})  # HIT")),
    Case("MM028", up("db.users.bulk_write([UpdateOne({'_id': 1}, {'a': 1}), ReplaceOne({'_id': 1}, {'$set': {'a': 1}})])  # HIT").replace(HEAD, HEAD + MODELS + "\n")),
    Case("MM028", up("db.users.replace_one({'_id': 1}, {'$set': {'a': 1}})  # HIT")),
    Case("MM028", up("db.users.update_many({'a': 1}, {})  # HIT")),
    Case("MM027", up("db.users.insert({'a': 1})  # HIT\ndb.users.updateMany({'a': 1}, {'$set': {'a': 2}})  # HIT")),
    Case("MM027", up("users = db['users']\nusers.ensure_index('a')  # HIT\ndb.collection_names()  # HIT")),
    # --- comments
    Case("MM030", up("raise NotImplementedError").replace("ctx):", "ctx):  # HIT")),
    Case("MM030", up("'To do.'\nraise NotImplementedError('soon')").replace("ctx):", "ctx):  # HIT")),
    Case("MM030", up("raise NotImplementedError('May they go?')\ndb.users.find_one()").replace("ctx):", "ctx):  # HIT")),
    Case("MM090", up("db.a.find_one({'$where': 'a'})\n# migrate: allow MM022 # HIT")),
    Case("MM090", up("db.a.find_one({'$where': 'a'})  # migrate: allow because I say so # HIT")),
    Case("MM091", up("db.users.find_one()  # migrate: allow MM022 because it is shown # HIT")),
    Case("MM091", up("# migrate: allow MM999 because there is none # HIT\ndb.users.find_one()")),
    # --- each condition on its own
    Case("MM002", up("pass", down="\n\ndef down(db):  # HIT\n    return\n")),
    Case("MM004", up("ids = sorted(\n    list(db.users.find()),  # HIT\n)")),
    Case("MM006", confined("db.create_collection('new')\ndb.new.drop()  # HIT")),
    Case("MM008", up("db.people.find_one()\ndb.people.drop()  # HIT")),
    Case("MM008", up("db.other.insert_one({'a': 1})\ndb.people.drop()  # HIT")),
    Case("MM008", up("db.people.aggregate([{'$match': {}}])\ndb.people.drop()  # HIT")),
    Case("MM008", up("db.other.aggregate([{'$out': 'b'}])\ndb.people.drop()  # HIT")),
    Case("MM008", up("db.people.drop()  # HIT", down="\n\ndef down(db):\n    db.old.rename('others')\n")),
    Case("MM013", HEAD + "from pathlib import Path\n\nTEXT = Path('a').read_text()  # HIT\n\n\ndef up(db):\n    pass\n" + DOWN),
    Case("MM013", HEAD + "from pymongo import MongoClient\n\nshop = MongoClient().shop\nCOUNT = shop.users.count_documents({})  # HIT\n\n\ndef up(db):\n    pass\n" + DOWN),
    Case("MM015", plain("db.users.insert_one({'a': 1})\nctx.backfill('users', {'$set': {'a': 1}})").replace("ctx):", "ctx):  # HIT")),
    Case("MM022", up("ctx.backfill('users', [{'$set': {'a': {'$function': {'body': 'x'}}}}])  # HIT")),
    Case("MM028", up("db.users.bulk_write([ReplaceOne({'_id': 1}, {'$set': {'a': 1}})])  # HIT").replace(HEAD, HEAD + MODELS + "\n")),
    Case("MM007", up("db.get_collection('users')\ndb.users.create_index('email', unique=True)  # HIT")),
    Case("MM008", up("db.other.aggregate([{'$match': {'a': 'people'}}])\ndb.people.drop()  # HIT")),
    Case("MM015", plain("db.users.aggregate([{'$out': 'a'}])\ndb.users.aggregate([{'$out': 'b'}])").replace("ctx):", "ctx):  # HIT")),
    Case("MM015", plain("db.a.drop()\ndb.b.drop()").replace("ctx):", "ctx):  # HIT")),
)  # fmt: skip

MISSES = (
    Case("MM000", up("db.users.find_one()")),
    Case("MM000", "name = 'Users'\n\n\ndef up(db, ctx):\n    pass\n"),
    Case("MM001", up("pass")),
    Case("MM001", "def up(db):\n    pass\n\n\nfrom somewhere import down\n"),
    Case("MM002", up("pass", down="\n\ndef down(db):\n    db.users.find_one()\n")),
    Case("MM002", up("pass", down="")),
    Case("MM002", up("pass", down="\n\ndef down(db):\n    if db.users.find_one():\n        raise ValueError\n")),
    Case("MM003", up('db.users.update_many({"a": {"$exists": False}}, {"$set": {"a": 1}})')),
    Case("MM003", up("db.users.update_one({}, {'$set': {'a': 1}})\ndb.users.find({})")),
    Case("MM003", up("wanted = {}\nwanted['a'] = 1\ndb.users.delete_many(wanted)")),
    Case("MM003", up("ctx.backfill('users', lambda u: db.seen.delete_many({}))")),
    Case("MM004", up("users = list(db.users.find().limit(100))")),
    Case("MM004", up("users = list(db.users.find(limit=100))\nmore = db.users.find()[:10]\nlist(more)")),
    Case("MM004", up("groups = list(db.users.aggregate([{'$group': {'_id': '$a'}}]))")),
    Case("MM004", up("count = sum(u['n'] for u in db.users.find())\nnames = list(db.list_collection_names())")),
    Case("MM005", up("for name in ('a', 'b'):\n    db.users.update_one({'_id': name}, {'$set': {'a': 1}})")),
    Case("MM005", up("ops = []\nfor u in db.users.find():\n    ops.append(UpdateOne({'_id': u['_id']}, {'$set': {'a': 1}}))\ndb.users.bulk_write(ops)").replace(HEAD, HEAD + MODELS + "\n")),
    Case("MM005", up("for g in db.users.aggregate([{'$group': {'_id': '$a'}}]):\n    db.groups.insert_one(g)")),
    Case("MM006", up("db.users.create_index('a')\ndb.users.rename('people')")),
    Case("MM006", confined("db.create_collection('new')\ndb.new.create_index('a')")),
    Case("MM006", confined("db.users.aggregate([{'$group': {'_id': '$a'}}])\ndb.command('ping')\ndb.create_collection('b')")),
    Case("MM009", confined("with ctx.session.bind():\n    db.users.insert_one({'a': 1})")),
    Case("MM009", plain("with db.client.start_session(causal_consistency=True) as s:\n    db.users.find_one({}, session=s)")),
    Case("MM010", plain("with db.client.start_session() as s, s.start_transaction():\n    db.users.insert_one({'a': 1}, session=s)\ndb.users.insert_one({'a': 2})")),
    Case("MM010", plain("with db.client.start_session() as s, s.bind(), s.start_transaction():\n    db.users.insert_one({'a': 1})")),
    Case("MM010", plain("with db.client.start_session() as s, s.start_transaction():\n    users = db.get_collection('users')\n    users.insert_one({'a': 1}, **OPTIONS)")),
    Case("MM023", up("ctx.backfill('users', {'$set': {'a': 1}})")),
    Case("MM023", confined("backfill = db.backfill\nbackfill.insert_one({'a': 1})")),
    Case("MM024", confined("try:\n    db.users.insert_one({'_id': 1})\nexcept Exception:\n    ctx.log.info('no')\n    raise")),
    Case("MM024", confined("try:\n    db.users.insert_one({'_id': ids['a']})\nexcept KeyError:\n    pass")),
    Case("MM024", up("try:\n    db.users.insert_one({'_id': 1})\nexcept DuplicateKeyError:\n    ctx.log.info('there')")),
    Case("MM024", confined("try:\n    value = int('x')\nexcept Exception:\n    value = 0\ndb.users.insert_one({'_id': value})")),
    Case("MM026", up("db.get_collection('users', write_concern=WriteConcern('majority')).insert_one({'a': 1})").replace(HEAD, HEAD + "from pymongo import WriteConcern\n")),
    Case("MM026", confined("db.get_collection('users', codec_options=CODEC).insert_one({'a': 1})")),
    Case("MM015", up("db.users.insert_one({'a': 1})\ndb.users.insert_one({'a': 2})")),
    Case("MM015", confined("db.users.insert_one({'a': 1})\ndb.users.insert_one({'a': 2})")),
    Case("MM015", plain("db.users.insert_one({'a': 1})")),
    Case("MM015", plain("db.users.create_index('a')\ndb.users.create_index('b')\nctx.backfill('users', {'$set': {'a': 1}})")),
    Case("MM007", up("db.users.create_index('email')\ndb.users.create_index('name', unique=False)")),
    Case("MM007", up("twice = db.users.aggregate([{'$group': {'_id': '$email', 'n': {'$sum': 1}}}])\ndb.users.create_index('email', unique=True)")),
    Case("MM007", up("db.users.update_many({'email': ''}, {'$unset': {'email': ''}})\ndb.users.create_index('email', unique=True)")),
    Case("MM007", up("db.create_collection('fresh')\ndb.fresh.create_index('email', unique=True)")),
    Case("MM007", up("for name in ('a', 'b'):\n    db[name].distinct('email')\n    db[name].create_index('email', unique=True)")),
    Case("MM029", up("db.create_collection('fresh')\ndb.fresh.create_index('seen', expireAfterSeconds=3600)")),
    Case("MM029", up("db.users.create_index('seen', name='seen')")),
    Case("MM029", up("pass", down="\n\ndef down(db):\n    db.users.create_index('seen', expireAfterSeconds=3600)\n")),
    Case("MM008", up("db.people.aggregate([{'$out': 'people_before'}])\ndb.people.drop()")),
    Case("MM008", up("db.people.drop()", down="\n\ndef down(db):\n    db.people.insert_many([{'a': 1}])\n")),
    Case("MM008", up("db.people.rename('people_before')\ndb.create_collection('scratch')\ndb.scratch.drop()")),
    Case("MM008", up("db.people.update_many({'a': ''}, {'$unset': {'a': ''}})")),
    Case("MM008", up("db.people.update_many({'a': {'$ne': 1}}, [{'$set': {'b': '$a'}}, {'$unset': 'a'}])")),
    Case("MM008", up("db.people.update_many({'a': {'$ne': 1}}, {'$rename': {'a': 'b'}})")),
    Case("MM008", up("db.people.update_one({'_id': 1}, {'$rename': {'a': 'b'}})\nctx.backfill('people', {'$unset': {'a': ''}})")),
    Case("MM008", up("db.people.update_many({'a': {'$ne': 1}}, {'$unset': {'a': ''}})", down="\n\ndef down(db):\n    db.people.update_many({'b': 1}, [{'$set': {'a': '$b'}}])\n")),
    Case("MM008", up("db.people.insert_one({'a': 1})", down="\n\ndef down(db):\n    db.people.drop()\n    db.users.update_many({'a': 1}, {'$unset': {'b': ''}})\n")),
    Case("MM011", up("other = db.client['reports']\nother.users.find_one()")),
    Case("MM011", up("isinstance(db.client, MongoClient)").replace(HEAD, HEAD + "from pymongo import MongoClient\n")),
    Case("MM012", up("pass").replace(HEAD, HEAD + "import json\nfrom bson import ObjectId\nfrom flask import Flask\n")),
    Case("MM012", up("pass").replace(HEAD, HEAD + "from . import _prices\nfrom ._units import metres\n")),
    Case("MM012", up("pass").replace(HEAD, HEAD + "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import shop\n")),
    Case("MM013", HEAD + "import re\nimport logging\n\nlog = logging.getLogger(__name__)\nlogging.captureWarnings(True)\nPATTERN = re.compile('a')\nSIZE = len('abc'.split())\n\n\ndef up(db):\n    open('a')\n" + DOWN),
    Case("MM013", HEAD + "import tools\n\n\ndef up(db):\n    tools.prepare()\n\n\nif __name__ == '__main__':\n    up(None)\n    print('x')\n" + DOWN),
    Case("MM019", up("sleep = 1\nctx.sleep(1)")),
    Case("MM019", up("started = time.monotonic()\ntime.strftime('%H')").replace(HEAD, HEAD + "import time\n")),
    Case("MM020", up("ctx.backfill('users', {'$set': {'a': 1}}, workers=4)")),
    Case("MM020", up("lock = threading.Lock()\nname = threading.current_thread().name\ndb.Thread.find_one()").replace(HEAD, HEAD + "import threading\n")),
    Case("MM021", up("db.users.insert_one({'a': 1}, bypass_document_validation=False)")),
    Case("MM021", up("db.users.insert_one({'bypass_document_validation': True})")),
    Case("MM022", up("db.users.find_one({'$expr': {'$gt': ['$a', '$b']}})\ndb.users.find_one({'where': 1})")),
    Case("MM022", up("wheres = {'$where': 'not sent'}\nCode = dict\nCode()")),
    Case("MM028", up("db.users.update_one({'_id': 1}, {'$set': {'a': 1}})\ndb.users.update_one({'_id': 1}, [{'$set': {'a': 1}}])")),
    Case("MM028", up("db.users.replace_one({'_id': 1}, {'a': 1})\ndb.users.update_one({'_id': 1}, {**CHANGE})\ndb.users.update_one({'_id': 1}, change_of({'a': 1}))")),
    Case("MM027", up("db.users.archive.insert_one({'a': 1})\ndb.users.name.upper()\ndb.users.database.client.server_info()")),
    Case("MM027", up("insert = db.insert\ninsert.insert_one({'a': 1})\nhasattr(db.users, 'insert')\nctx.insert()")),
    Case("MM030", up("raise ValueError('no')")),
    Case("MM030", up("db.users.drop()\nraise NotImplementedError")),
    Case("MM030", up("if db.users.find_one():\n    raise NotImplementedError")),
    Case("MM090", up("db.a.find_one({'$where': 'a'})  # migrate: allow MM022 because it is shown")),
    Case("MM090", up("# migrate: the users, and allow for orders\nprint('# migrate: allow MM022')")),
    Case("MM091", up("# migrate: allow MM022, MM019 because it is shown\ndb.a.find_one({'$where': 'a'}); time.sleep(1)").replace(HEAD, HEAD + "import time\n")),
    Case("MM091", up("db.a.find_one({'$where': 'a'})  # migrate: allow MM022 because it is shown")),
    # --- each condition on its own
    Case("MM002", up("pass", down="\n\ndef down(db):\n    db['users']\n")),
    Case("MM002", up("pass", down="\n\ndef down(db):\n    db.users.find_one()\n    raise ValueError\n")),
    Case("MM002", up("pass", down="\n\ndef down(db):\n    return db.users.delete_one({'_id': 1})\n")),
    Case("MM003", up("ctx.update_many({}, {})\ndb.users.delete_many(**WHERE)\ndb.users.delete_many(WANTED)")),
    Case("MM004", up("db.users.find().to_list(100)\ndb.users.find().rewind()")),
    Case("MM005", up("for u in db.users.find():\n    ctx.update_one(u)\n    db.users.find_one({'_id': 1})")),
    Case("MM006", confined("db.command(command='ping')")),
    Case("MM007", up("ctx.create_index('a', unique=True)\ndb.users.drop_index('a', unique=True)")),
    Case("MM007", up("db.users.create_indexes([Other('email', unique=True)])").replace(HEAD, HEAD + "from tools import Other\n")),
    Case("MM008", up("db.people.aggregate([{'$out': 'b'}])\ndb.drop_collection('people')\nctx.drop()")),
    Case("MM008", up("db.people.drop()", down="\n\ndef down(db):\n    db.people_old.rename('people')\n")),
    Case("MM009", up("ctx.start_transaction()")),
    Case("MM011", up("db.MongoClient()")),
    Case("MM020", HEAD + "class Thread:\n    pass\n\n\ndef up(db):\n    Thread()\n" + DOWN),
    Case("MM022", up("Code('a')\nObjectId('5f' * 12)").replace(HEAD, HEAD + "from bson import ObjectId\nfrom tools import Code\n")),
    Case("MM026", confined("ctx.session.start_transaction(write_concern=ACK)")),
    Case("MM027", up("db['users']()")),
    Case("MM028", up("db.users.update_one({'_id': 1}, CHANGE)\nctx.replace_one({}, {'$set': 1})\ndb.users.replace_one({'_id': 1})")),
    Case("MM007", up("db[which()].distinct('email')\ndb.users.create_index('email', unique=True)")),
    Case("MM015", plain("ctx.insert_one({})\nctx.insert_one({})\nctx.drop()\nctx.drop()")),
    Case("MM015", plain("db.users.find_one()\ndb.users.find_one({'a': 1})")),
    Case("MM028", up("ctx.update_one({}, {'a': 1})")),
)  # fmt: skip


def named(case: Case) -> str:
    return case.code


@pytest.mark.parametrize("case", HITS, ids=named)
def test_a_rule_hits_these_lines_and_no_others(tmp_path: Path, case: Case) -> None:
    lines = case.source.splitlines()
    marked = [number for number, line in enumerate(lines, 1) if line.endswith("# HIT")]
    hit = [f for f in found(tmp_path, case.source, case.name) if f.rule.code == case.code]
    assert sorted({finding.line for finding in hit}) == marked
    assert marked


@pytest.mark.parametrize("case", MISSES, ids=named)
def test_a_rule_ignores_similar_code_that_is_right(tmp_path: Path, case: Case) -> None:
    hit = [f for f in found(tmp_path, case.source, case.name) if f.rule.code == case.code]
    assert hit == []


def test_every_rule_has_two_hits_and_two_near_misses() -> None:
    for cases in (HITS, MISSES):
        count = Counter(case.code for case in cases)
        assert {code for code in BY_CODE if count[code] < 2} == set()
        assert count.keys() <= BY_CODE.keys()


def test_the_table_is_complete_and_in_the_order_of_its_codes() -> None:
    assert list(BY_CODE) == sorted(BY_CODE)
    for rule in RULES:
        assert re.fullmatch("MM[0-9]{3}", rule.code)
        assert rule.advice.endswith("."), rule.code
        assert rule.example, rule.code
        assert "{" not in rule.title


def test_the_example_names_the_collection(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, up("db.orders.update_many({}, {'$set': {'a': 1}})"))
    assert "db.orders.update_many" in finding.help
    assert "users" not in finding.help


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (up("db.users.create_index(KEYS, unique=True)"), "Duplicates of the fields in users"),
        (up("db.users.create_index([('a', 1), ('b', 1)], unique=True)"), "of `a` and `b` in users"),
        (up("db[which()].create_index('a', unique=True)"), "of `a` in the collection"),
        (up("list(db.users.find())"), "from users are in memory"),
        (up("list(db[which()].find())"), "from the collection are in memory"),
        (up("db.users.delete_many({})"), "`db.users.delete_many()` has no filter"),
        (up("[DeleteMany({})]").replace(HEAD, HEAD + MODELS + "\n"), "`DeleteMany` has no filter"),
        (up("ctx.session.start_transaction()"), "does not contain the migration's record"),
        (confined("ctx.session.start_transaction()"), "refuses a second transaction"),
        (
            up("Thread()").replace(HEAD, HEAD + "from threading import Thread\n"),
            "its errors are not seen",
        ),
        (
            confined("Thread()").replace(HEAD, HEAD + "from threading import Thread\n"),
            "outside the transaction",
        ),
        (
            up("time.sleep(1)").replace(HEAD, HEAD + "import time\n"),
            "While the migration sleeps, it holds the lock.",
        ),
        (
            confined("time.sleep(1)").replace(HEAD, HEAD + "import time\n"),
            "While the migration sleeps, it holds the lock and its transaction.",
        ),
        (
            up("db.users.updateMany()"),
            "no method `updateMany`: this raises TypeError. Use `update_many`.",
        ),
        (up("db.users.insert()"), "Use `insert_one` or `insert_many`."),
        (up("db.users.insrt()"), "no method `insrt`: this raises TypeError."),
        (up("db.client.drop_database('a')"), "`client.drop_database()` deletes"),
        (up("db.drop_collection('a')"), "`db.drop_collection()` deletes"),
    ],
)
def test_the_message_says_what_happens(tmp_path: Path, source: str, said: str) -> None:
    assert [f.message for f in found(tmp_path, source) if said in f.message]


# --- what the driver has


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("kind", "methods", "others"),
    [
        (Collection, facts.COLLECTION_METHODS, {*facts.PROPERTIES, "database"}),
        (Database, facts.DATABASE_METHODS, {*facts.PROPERTIES, "client"}),
    ],
)
def test_every_method_of_pymongo_is_known(
    kind: type, methods: frozenset[str], others: set[str]
) -> None:
    assert public(kind) - {"next"} <= methods | others
    assert methods <= public(kind)


def test_the_methods_of_a_client_are_methods() -> None:
    assert public(MongoClient) >= facts.CLIENT_METHODS


# --- the example


def test_the_example_has_no_findings() -> None:
    files = sorted((ROOT / "example_app" / "migrations").glob("*.py"))
    report = Linter(owned_by("example_app", ROOT / "example_app")).lint(files)
    assert len(files) == report.files > 4
    assert report.findings == ()
