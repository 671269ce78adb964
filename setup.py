"Everything about the package stands in settings.ini; this only hands it to setuptools."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
ini = ConfigParser(delimiters=["="], interpolation=None)
ini.read(here / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]
extras = {name: cfg[f"{name}_requirements"].split() for name in ("hub", "arc", "gpu", "sweep", "notebook", "docs")}
extras["dev"] = [*cfg["dev_requirements"].split(), *(r for reqs in extras.values() for r in reqs)]


class WithModels(build_py):
    "Small trained models travel within the package; an editable install finds them where they lie."
    def run(self):
        super().run()
        if getattr(self, "editable_mode", False): return
        for source in sorted((here / "data" / "models").glob("[!.]*/[!.]*")):
            target = Path(self.build_lib) / "hrm_nb" / "models" / source.relative_to(here / "data" / "models")
            self.mkpath(str(target.parent))
            self.copy_file(str(source), str(target))


setup(
    name=cfg["lib_name"], version=cfg["version"], description=cfg["description"], license="Apache-2.0",
    long_description=(here / "README.md").read_text(encoding="utf-8"), long_description_content_type="text/markdown",
    author=cfg["author"], keywords=cfg["keywords"], python_requires=">=" + cfg["min_python"],
    packages=find_packages(include=["hrm_nb", "hrm_nb.*"]),
    install_requires=cfg["requirements"].split(), extras_require=extras, zip_safe=False,
    cmdclass={"build_py": WithModels},
    entry_points={"console_scripts": cfg["console_scripts"].split(), "nbdev": ["hrm_nb=hrm_nb._modidx:d"]},
)
