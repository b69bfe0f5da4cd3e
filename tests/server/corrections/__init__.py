# SPDX-License-Identifier: GPL-2.0-only
"""What SecantusDB answers otherwise than mongod, put right; one module for each subject.

The modules are loaded by `strict_server.py`, in the daemon's own process. They import SecantusDB,
which is licensed under GPL-2.0-only, and so are under that licence themselves. Nothing else imports
them, and they are not part of the wheel.
"""
