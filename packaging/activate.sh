#!/bin/sh
# SPDX-License-Identifier: MIT
#
# activate.sh programs|module GROUP-FILE, activate.sh removed: what was installed, or
# removed, takes effect without a reboot: the cache of shared libraries, the group, the
# service; for the module its list and its rule.  Where there is no systemd, says what is
# left to do.  Does nothing for who may not: a PREFIX in one's own folder needs none of it.
set -eu
PATH=$PATH:/usr/sbin:/sbin

make_group()
{
	if command -v systemd-sysusers >/dev/null; then
		systemd-sysusers "$1"
	else
		getent group kvtier >/dev/null || groupadd --system kvtier
	fi
}

changed()
{
	ldconfig
	# Not there in a container, or for a kernel that came with it.
	[ ! -d "/lib/modules/$(uname -r)" ] || depmod -a
	[ ! -d /run/systemd/system ] || systemctl daemon-reload
}

[ "$(id -u)" -eq 0 ] || exit 0
case $1 in
programs)
	make_group "$2"
	changed
	;;
removed)
	changed
	;;
module)
	changed
	make_group "$2"
	if udevadm control --reload 2>/dev/null; then
		udevadm trigger --subsystem-match=misc --sysname-match=kvtier
	else
		echo "udev does not run here: chgrp kvtier /dev/kvtier after each modprobe" >&2
	fi
	;;
esac
