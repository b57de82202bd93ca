#!/bin/sh
# SPDX-License-Identifier: MIT
#
# What was installed takes effect without a reboot: the list of modules, the group, the
# rule.  Where there is no systemd, says what is left to do.
set -eu

depmod -a
if command -v systemd-sysusers >/dev/null; then
	systemd-sysusers kvtier.conf
else
	getent group kvtier >/dev/null || groupadd --system kvtier
fi
if udevadm control --reload 2>/dev/null; then
	udevadm trigger --subsystem-match=misc --sysname-match=kvtier
else
	echo "udev does not run here: chgrp kvtier /dev/kvtier after each modprobe" >&2
fi
