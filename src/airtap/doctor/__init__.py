"""airtap doctor: tells what is wrong with this host's airtap, why one thinks so, and what to type.

`sources/` read the kernel, libvirt and files, one module for each. `checks/` decide on what was
read, without I/O. `contents.py` lists every check, and `diagnosis.py` brings the two together.
"""
