"""A small stand-in for the part of Dassl 0.6.3 that the CoOp family uses.

Written for this project so that it runs where Dassl.pytorch (github.com/KaiyangZhou/Dassl.pytorch) is not
installed; where that is installed, it is used instead. Module paths, public names, the order in which random
numbers are drawn and the layout of files on disk are Dassl's. README.md lists what differs.
"""

__version__ = "0.6.3+standin"
