#!/usr/bin/env python3
"""cut.py MOUNTPOINT: cuts the power of a mounted ext4 file system.

FS_IOC_SHUTDOWN with NOLOGFLUSH drops every dirty page and every uncommitted transaction of the file system's
journal, as loss of power does; from then on each call on the mount fails with EIO. Just before the cut
a file is written and not synced: the positive control, which must be lost.
"""
import fcntl
import os
import struct
import sys

FS_IOC_SHUTDOWN = 0x8004587D
NOLOGFLUSH = 2

mount = sys.argv[1]
directory = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
with open(os.path.join(mount, "control"), "wb", buffering=0) as control:
    control.write(b"unsynced" * 8192)
    fcntl.ioctl(directory, FS_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
