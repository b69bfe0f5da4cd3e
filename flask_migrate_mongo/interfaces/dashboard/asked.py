"""What the forms of the dashboard send: the parameters of the API's actions, and what a form adds to them."""

from __future__ import annotations

from collections.abc import Mapping

from marshmallow import fields, pre_load

from flask_migrate_mongo.interfaces.rest.operations import DownQuery, NoQuery, PlanQuery, UpQuery

from .forms import FIELD


class _Blank(NoQuery):
    """A form. An empty field counts as left out."""

    @pre_load
    def drop_blanks(self, given: Mapping[str, str], **_: object) -> dict[str, str]:
        """Leave out the empty fields."""
        return {name: text for name, text in given.items() if text.strip()}


class PlanForm(_Blank, PlanQuery):
    """Which run."""


class Form(_Blank):
    """A form that changes something, with its token, which is checked before."""

    form_token = fields.String(data_key=FIELD, load_default="")


class _Started(Form):
    """A form that starts what its page has shown: `expected` names that."""

    expected = fields.String(load_default="")
    typed_name = fields.String(load_default="")


class UpForm(_Started, UpQuery):
    """A run of `up`."""


class DownForm(_Started, DownQuery):
    """A run of `down`; the name of the database is typed by hand."""


class ReleaseForm(Form):
    """The release of the lock that the page has shown: `fence` is its number."""

    fence = fields.Integer(load_default=None)
    typed_name = fields.String(load_default="")
