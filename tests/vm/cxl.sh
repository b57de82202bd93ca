#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Bring up the CXL type-3 device's volatile memory through the kernel's own
# drivers: a region over one endpoint decoder, which dax_cxl and kmem turn into a
# NUMA node without CPUs.
# shellcheck shell=dash
set -eu

fail()
{
	echo "# cxl: $*" >&2
	exit 1
}

# decoder TYPE: the first decoder of that type.
decoder()
{
	local type

	for type in /sys/bus/cxl/devices/decoder*/devtype; do
		[ "$(cat "$type")" = "cxl_decoder_$1" ] || continue
		type=${type%/devtype}
		echo "${type##*/}"
		return 0
	done
	return 1
}

memory_is_there()
{
	[ -d /sys/devices/system/node/node1 ] &&
		grep -q 'MemTotal: *[1-9]' /sys/devices/system/node/node1/meminfo
}

for module in cxl_acpi cxl_pci cxl_mem cxl_port device_dax kmem dax_cxl; do
	modprobe -q $module || true
done
tries=0
until endpoint=$(decoder endpoint); do
	tries=$((tries + 1))
	[ $tries -lt 100 ] || fail "no endpoint decoder came up"
	sleep 0.1
done
root=$(decoder root) || fail "no root decoder"
cd /sys/bus/cxl/devices
[ -e "$root/create_ram_region" ] || fail "this kernel has no volatile CXL regions"
size=$(cat mem0/ram/size)
region=$(cat "$root/create_ram_region")
echo "$region" >"$root/create_ram_region"
echo ram >"$endpoint/mode"
echo "$size" >"$endpoint/dpa_size"
echo 256 >"$region/interleave_granularity"
echo 1 >"$region/interleave_ways"
echo "$size" >"$region/size"
echo "$endpoint" >"$region/target0"
echo 1 >"$region/commit"
# Bound on its own where the driver is quick enough.
[ -e "$region/driver" ] || echo "$region" >/sys/bus/cxl/drivers/cxl_region/bind || true
tries=0
until memory_is_there; do
	tries=$((tries + 1))
	[ $tries -lt 100 ] || fail "the region's memory did not come online"
	sleep 0.1
done
echo "# cxl: $region of $((size >> 20)) MiB is node 1"
