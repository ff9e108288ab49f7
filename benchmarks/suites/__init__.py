"""The asv suites, apart from the scripts: asv imports whatever is here with any version of the package. ../README.md."""
