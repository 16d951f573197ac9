"""placeholder to be replaced below"""

DEBIAN_PACKAGES = {}


def needs(target):
    return []
