"""Map the repository's folders to the package `caspl`; everything else about it is in pyproject.toml."""

from setuptools import find_packages, setup

FOLDERS = {"caspl": "trainers", "caspl.datasets": "datasets", "caspl.third_party": "third_party"}

setup(
    package_dir={**FOLDERS, "caspl.configs": "configs"},
    packages=[
        *FOLDERS,
        *(f"{package}.{name}" for package, folder in FOLDERS.items() for name in find_packages(folder)),
        "caspl.configs",
    ],
    package_data={
        "caspl": ["py.typed"],
        "caspl.backbones": ["weights/*.pt"],
        "caspl.configs": ["**/*.yaml"],
        "caspl.deploy.report": ["page.css", "page.js"],
        "caspl.method": ["templates.txt"],
        "caspl.results": ["paper/*.csv"],
    },
)
