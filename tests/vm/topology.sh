# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# QEMU's arguments for a topology.  Sourced by run.sh; drawn in its header.
# shellcheck disable=SC2154,SC2034,SC2054 # work, topology, args, machine, append: run.sh's

# disk SERIAL SIZE [DRIVE-OPTIONS]: an NVMe disk on a sparse file.
disk()
{
	local file=$work/$1.img

	truncate -s "$2" "$file"
	args+=(-drive "file=${3:-}$file,if=none,id=$1,format=raw,cache=unsafe${4:-}"
		-device "nvme,serial=$1,drive=$1,bus=pcie.0")
}

# Node 1 is a CXL type-3 device behind a host bridge and a root port of its own.
topology_cxl()
{
	machine+=,cxl=on
	append+=" memhp_default_state=online_kernel"
	args+=(-m "3G,maxmem=8G,slots=8"
		-object memory-backend-ram,id=cxl-ram,share=on,size=512M
		-device pxb-cxl,bus_nr=12,bus=pcie.0,id=cxl.1
		-device cxl-rp,port=0,bus=cxl.1,id=rp13,chassis=0,slot=2
		-device cxl-type3,bus=rp13,volatile-memdev=cxl-ram,id=cxl-vmem0
		-M cxl-fmw.0.targets.0=cxl.1,cxl-fmw.0.size=4G)
}

topology_numa()
{
	args+=(-m 3584M
		-object memory-backend-ram,id=m0,size=3G -object memory-backend-ram,id=m1,size=512M
		-numa node,nodeid=0,cpus=0-1,memdev=m0 -numa node,nodeid=1,memdev=m1
		-numa dist,src=0,dst=1,val=20)
}

# Node 1 can be taken offline, but for a part without which the firmware's table would not
# know it; node 2 is all ZONE_MOVABLE; kv1 fails at known places.
topology_errors()
{
	append+=" memhp_default_state=offline"
	args+=(-m "3200M,slots=4,maxmem=8G"
		-object memory-backend-ram,id=m0,size=3G -object memory-backend-ram,id=m1,size=128M
		-numa node,nodeid=0,cpus=0-1,memdev=m0 -numa node,nodeid=1,memdev=m1
		-numa node,nodeid=2
		-numa dist,src=0,dst=1,val=20 -numa dist,src=0,dst=2,val=30
		-numa dist,src=1,dst=2,val=30
		-object memory-backend-ram,id=d1,size=384M -device pc-dimm,id=dimm1,memdev=d1,node=1
		-object memory-backend-ram,id=d2,size=256M -device pc-dimm,id=dimm2,memdev=d2,node=2)
}

topology_disks()
{
	local errors=

	disk kv0 4G
	if [[ $topology == errors ]]; then
		cp tests/vm/blkdebug.conf "$work/"
		disk kv1 1G "blkdebug:$work/blkdebug.conf:" ,rerror=report,werror=report
	else
		disk kv1 2G
	fi
}
