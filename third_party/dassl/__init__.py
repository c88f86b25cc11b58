"""A small substitute for the part of Dassl 0.6.3 that the CoOp family uses.

It is used where Dassl.pytorch (github.com/KaiyangZhou/Dassl.pytorch) is not installed. Module paths, public names, the
order of random draws and the layout of files are Dassl's. README.md lists what differs.
"""

__version__ = "0.6.3+standin"
