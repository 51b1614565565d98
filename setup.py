"""Installs the top-level folders under one import name, `autoresearch_mcp`, so that nothing generic lands in site-packages.

`setuptools` reads the rest from pyproject.toml. This file exists because only `package_dir` can give a folder another import name,
for wheels and for editable installs alike; hatchling cannot for the latter.
"""

from setuptools import find_packages, setup

NAME = "autoresearch_mcp"
FOLDERS = ("server", "trainer", "contracts", "client")

setup(
    packages=[f"{NAME}.{package}" for folder in FOLDERS for package in (folder, *(f"{folder}.{sub}" for sub in find_packages(folder)))],
    package_dir={f"{NAME}.{folder}": folder for folder in FOLDERS},
    package_data={f"{NAME}.{folder}": ["py.typed", "*.md"] for folder in FOLDERS}
    | {f"{NAME}.server.page": ["templates/*", "static/*", "static/vendor/*"], f"{NAME}.server.mcp": ["*.html"]},
)
