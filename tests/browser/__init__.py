"""The dashboard in a browser: Chromium, driven by Playwright, against a web server and a database."""
