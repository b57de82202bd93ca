#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# What the tools show and set through kvtierd, which runs here on the user pager.
set -u
# shellcheck source=tests/tools/setup.sh
. "$(dirname "$0")/setup.sh"

kvtierd=$(dirname "$kvtier")/kvtierd
[[ -x $kvtierd ]] || { echo "1..0 # SKIP kvtierd is not built" && exit 0; }
export KVTIER_SOCKET=$work/kvtierd.sock KVTIER_SYSFS=$work/sysfs
pool_user=$B/tests/tools/pool_user
[[ -x $pool_user ]] || { echo "1..0 # SKIP $pool_user is not built" && exit 4; }

daemon=
stop()
{
	local i

	[[ $daemon ]] || return 0
	kill "$daemon" 2>/dev/null
	for ((i = 0; i < 100; i++)); do
		kill -0 "$daemon" 2>/dev/null || return 0
		sleep 0.1
	done
	kill -KILL "$daemon"
}
trap 'stop; rm -rf "$work"' EXIT

start()
{
	local i

	mkdir -p "$work/state"
	printf '[daemon]\nsocket = %s\nstate-dir = %s\nmodule = no\n[metrics]\nsocket = %s\n' \
		"$KVTIER_SOCKET" "$work/state" "$work/metrics.sock" >"$work/kvtierd.conf"
	"$kvtierd" --config "$work/kvtierd.conf" >"$work/kvtierd.log" 2>&1 &
	daemon=$!
	for ((i = 0; i < 100; i++)); do
		[[ ! -S $KVTIER_SOCKET ]] || return 0
		kill -0 "$daemon" 2>/dev/null || break
		sleep 0.1
	done
	cat "$work/kvtierd.log"
	return 1
}

json()
{
	"$kvtier" "$@" --json >"$work/json" || {
		cat "$work/json"
		return 1
	}
}

result()
{
	jq -c "$1" "$work/json"
}

# A pool of the daemon's, kept when its maker is gone.
made()
{
	local line=

	coproc "$pool_user" conversation 2>"$work/maker"
	local pid=$COPROC_PID in=${COPROC[1]}

	read -r -t 60 line <&"${COPROC[0]}"
	exec {in}>&-
	wait "$pid"
	[[ $line == ready ]] || {
		grep -q ' -95\| -38\| -1 ' <<<" $(<"$work/maker")" && skip "$(<"$work/maker")"
		return
	}
}

seen()
{
	json show && expect "daemon" "$(result '[.daemon.running, .daemon.backend]')" \
		'[true,"user"]' &&
		expect "pools" "$(result '[.daemon_pools[].name]')" '["conversation"]' &&
		json pool && expect "pool" "$(result '.[0] | [.name, .pager, .bytes, .kept]')" \
		'["conversation","daemon",33554432,true]' &&
		json top -n 1 && expect "tenants" "$(result '.tenants | map(.pools)')" "[1]" &&
		json tier && expect "tiers" "$(result 'map(select(.by == "daemon") | .tier)')" \
		'["dram","nvme"]' || return 1
	expect_text "$("$kvtier")" "/co" &&
		expect_text "$("$kvtier" pool show conversation)" "tenant"
}

# Its figures count where those of processes do.
figures()
{
	json stat && expect "stat" "$(result 'map([.pager, .tiers.nvme.used_bytes > 0, .zero_faults])')" \
		'[["daemon",true,320]]' &&
		expect_text "$("$kvtier" stat)" "conversation (kvtierd)" &&
		json top -n 2 -d 0.2 && expect "top" "$(jq -s -c '.[1] | [(.pools | map(.pager)),
			.tiers.dram.used_bytes == .pools[0].dram_bytes, .all.seconds > 0]' "$work/json")" \
		'[["daemon"],true,true]' && json &&
		expect "screen" "$(result '[.daemon_pools[0].zero_faults,
			.tiers.dram.used_bytes == .daemon_pools[0].tiers.dram.used_bytes]')" '[320,true]' &&
		json report "$work/report.html" && expect "pools of the report" "$(result .pools)" 1 &&
		expect_text "$(<"$work/report.html")" "conversation: 512 blocks"
}

mapped()
{
	json map conversation && expect "blocks" "$(result '[(.blocks | length), .source]')" \
		'[512,"daemon"]' &&
		expect "empty" "$(result '[.blocks[] | select(.state == "empty")] | length')" 192
}

budget()
{
	json pool set conversation dram 16M && expect "what was done" "$(result .dram_bytes)" 16777216 &&
		json pool show conversation &&
		expect "budget" "$(result .tiers.dram.budget_bytes)" 16777216 &&
		says 2 "'size' cannot be set" pool set conversation size 16M &&
		says 2 "'lots' is not a size" pool set conversation dram lots &&
		says 1 "the daemon refuses that budget" pool set conversation dram 1K
}

quota()
{
	local tenant

	json top -n 1
	tenant=$(jq -r '.tenants[0].name' "$work/json")
	json tier quota "$tenant" dram 1G &&
		expect "what was done" "$(result .quota_bytes)" 1073741824 && "$kvtier" tier quota "$tenant" dram 0 &&
		says 1 "the daemon refuses that quota of nobody-at-all" tier quota nobody-at-all dram 1G
}

checkpointed()
{
	json pool checkpoint conversation && expect "tenant" "$(result '.tenant | length > 0')" true &&
		json pool show conversation &&
		expect "checkpoint" "$(result '.checkpoint_age_s >= 0')" true
}

scrubbed()
{
	json scrub conversation && expect "bad blocks" "$(result '[.bad, .running]')" "[0,false]" &&
		json scrub --all &&
		expect "verified" "$(result '.verified > 0')" true &&
		says 1 "there is no pool 'other'" scrub other
}

gone()
{
	stop
	says 1 "no kvtierd answers" scrub --all && json show &&
		expect "daemon" "$(result .daemon.running)" false
}

# Here, since a case runs in a shell of its own.
start >"$work/start" 2>&1
started=$?
started()
{
	cat "$work/start"
	return $started
}

ktap_case started "the daemon starts" started
ktap_case made "a pool that outlives its maker" made
ktap_case seen "the daemon, its pools and tenants are shown" seen
ktap_case figures "the figures of its pool" figures
ktap_case mapped "a map of its pool" mapped
ktap_case budget "its budget" budget
ktap_case quota "a tenant's quota" quota
ktap_case checkpointed "a checkpoint" checkpointed
ktap_case scrubbed "a scrub" scrubbed
ktap_case gone "the daemon is gone" gone
ktap_end
