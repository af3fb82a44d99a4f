"""Dashboards of stock ipywidgets; the only place of the package that imports them, and nothing else imports it."""
