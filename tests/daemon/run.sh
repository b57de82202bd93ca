#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# kvtierd's papers: the help, man pages, example, unit, counters and dashboard agree with it;
# and a decoder whose sequence outlives it.
# Environment: B (build folder).
set -u
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/ktap.sh
. tests/ktap.sh

B=${B:-build}
work=$(mktemp -d)
port=$((20000 + $$ % 20000))
daemon=
trap '[[ ! $daemon ]] || kill "$daemon" 2>/dev/null; rm -rf "$work"' EXIT

# Lines of two lists that differ.
same()
{
	local differ

	differ=$(diff <(echo "$2" | sort -u) <(echo "$3" | sort -u)) || {
		echo "$1:"
		echo "$differ"
		return 1
	}
}

start_daemon()
{
	cat >"$work/conf" <<-EOF
		[daemon]
		socket = $work/socket
		state-dir = $work/state
		module = no
		[metrics]
		socket = $work/metrics
		http-port = $port
	EOF
	"$B/kvtierd" --config "$work/conf" 2>"$work/log" &
	daemon=$!
	for _ in $(seq 200); do
		grep -q event=started "$work/log" && return
		sleep 0.1
	done
	cat "$work/log"
	return 1
}

# fetch METHOD PATH: of the daemon, over the loopback.
fetch()
{
	exec 3<>"/dev/tcp/127.0.0.1/$port" || return
	printf '%s %s HTTP/1.0\r\n\r\n' "$1" "$2" >&3
	timeout 20 cat <&3
	exec 3>&-
}

options_in_man()
{
	local help man

	help=$("$B/kvtierd" --help | grep -oE -- '--[a-z]+')
	man=$(grep -oE '^\.It .*' Documentation/man/kvtierd.8 | grep -oE 'Fl -[a-z]+' | sed 's/Fl -/--/')
	same "options of --help and of the man page" "$help" "$man"
}

# The keys of config.c's table.
keys()
{
	sed -nE 's/^\t\{ "([a-z]+)", "([a-z-]+)", [A-Z]+,.*/\1 \2/p' daemon/config.c
}

keys_in_man()
{
	local man

	man=$(awk '
		/^\.Ss \[default\]/ { section = "tenant"; next }
		/^\.Ss \[/ { section = substr($2, 2, length($2) - 2); next }
		/^\.Sh/ { section = "" }
		section && /^\.It Cm/ {
			for (i = 3; i <= NF; i++)
				if ($i != "," && $i != "Cm")
					print section, $i
		}' Documentation/man/kvtierd.conf.5)
	same "keys of the daemon and of the man page" "$(keys)" "$man"
}

keys_in_example()
{
	local example

	example=$(awk '
		/^#?\[/ { section = $1; gsub(/[#[\]]/, "", section) }
		section == "default" { section = "tenant" }
		/^# ?[a-z-]+ = / { sub(/^# ?/, ""); print section, $1 }
		/^#[a-z-]+ = / { sub(/^#/, ""); print section, $1 }' packaging/kvtierd.conf)
	same "keys of the daemon and of the example" "$(keys)" "$example"
}

example_is_good()
{
	"$B/kvtierd" --config packaging/kvtierd.conf --check || return
	# And so is what it says when all that is commented out is taken in.
	sed -E 's/^# ?([a-z-]+ = |\[)/\1/' packaging/kvtierd.conf >"$work/whole"
	"$B/kvtierd" --config "$work/whole" --check
}

unit_is_good()
{
	command -v systemd-analyze >/dev/null || { skip "systemd-analyze is not installed" || return; }
	sed -E "s,/usr/local/bin/kvtierd,$(realpath "$B/kvtierd"),; /^Group=/d" \
		packaging/systemd/kvtierd.service >"$work/kvtierd.service"
	systemd-analyze verify --man=no "$work/kvtierd.service" 2>&1 | grep kvtierd.service && return 1
	return 0
}

over_http()
{
	head -n 1 "$work/http" | grep -q ' 200 ' || { head "$work/http"; return 1; }
	grep -qi '^content-type: application/openmetrics-text' "$work/http" || return
	[[ $(tail -n 1 "$work/http") == "# EOF" ]] || { echo "no end"; return 1; }
	fetch GET /else | head -n 1 | grep -q ' 404 ' || { echo "expected 404"; return 1; }
	fetch POST /metrics | head -n 1 | grep -q ' 405 ' || { echo "expected 405"; return 1; }
}

counters_documented()
{
	local shown documented

	shown=$(awk '/^# TYPE/ { type = $4; name = $3 } /^# UNIT/ { print name, type, $4 }' "$work/all")
	documented=$(awk '
		/^   \* - ``/ { gsub(/`/, ""); name = $3; n = 0; next }
		/^     - / && name { n++; f[n] = $2; if (n == 2) print name, f[1], f[2] }
		' Documentation/metrics.rst)
	same "counters of the daemon and of Documentation/metrics.rst" "$shown" "$documented"
}

# Each has help, a unit that ends its name, and samples of its own name alone.  $1: which
counters_well_formed()
{
	awk '
		/\r$/ { next }
		/^# TYPE/ { name = $3; type = $4; seen[name]++ }
		/^# UNIT/ && $3 !~ "_" $4 "$" { print $3 " does not end in its unit " $4; bad = 1 }
		/^# HELP/ && NF < 5 { print $3 " has no help"; bad = 1 }
		/^kvtier/ {
			sample = $1; sub(/\{.*/, "", sample)
			want = type == "counter" ? name "_total" : name
			if (sample != want) { print sample " is not of " name; bad = 1 }
		}
		END { for (n in seen) if (seen[n] > 1) { print n " twice"; bad = 1 }; exit bad }' "$work/$1"
}

dashboard_is_true()
{
	local used shown

	used=$(jq -r '.panels[].targets[].expr' packaging/grafana/kvtier.json | grep -oE 'kvtier_[a-z_]+')
	shown=$(awk '/^# TYPE/ { print $3 ($4 == "counter" ? "_total" : "") }' "$work/http")
	echo "$used" | sort -u | grep -vxFf <(echo "$shown") && return 1
	return 0
}

# Names of pools are not for whoever may reach the port, unless so configured.
pools_kept_back()
{
	grep -q '^# TYPE kvtier_pool_faults ' "$work/all" || { echo "not with pools = yes"; return 1; }
	grep -q '^# TYPE kvtier_tenant_faults ' "$work/http" || { echo "no sums"; return 1; }
	! grep kvtier_pool_ "$work/http"
}

second_daemon()
{
	"$B/kvtierd" --config "$work/conf" 2>"$work/second" && return 1
	grep -q 'another kvtierd' "$work/second" || { cat "$work/second"; return 1; }
}

ended()
{
	expect "exit status" "$status" 0 && [[ ! -e $work/socket && ! -e $work/metrics ]]
}

# kill -9 of engine and daemon: the next token has the bits that it had before.
restart_equal()
{
	local model=${DATA:-../shared/data}/models/stories260K.gguf

	if [[ ! -r $model ]]; then
		[[ -x $B/mkmodel ]] || { echo "no model $model, and none can be made" && return 4; }
		model=$work/model.gguf
		"$B/mkmodel" --layers 2 --heads 4 --kv-heads 4 --head-dim 32 --embd 64 --ffn 64 \
			-o "$model" || return
	fi
	MODEL=$model TOKENS=300 THREADS=2 ROUNDS=2 B=$B JSON=$work/restart.json \
		timeout 60 tests/bench/restart.sh || return
	expect "equal logits" "$(jq '.[] | select(.name == "restart.equal") | .min' \
		"$work/restart.json")" 1
}

# Not in ktap_case's subshell, which would take the daemon along.
ktap_case options_in_man "every option is in the man page" options_in_man
ktap_case keys_in_man "every key is in the man page" keys_in_man
ktap_case keys_in_example "every key is in the example" keys_in_example
ktap_case example_is_good "the example passes its own check" example_is_good
ktap_case unit_is_good "systemd finds nothing wrong with the unit" unit_is_good
start_daemon
fetch GET /metrics >"$work/http"
echo "pools = yes" >>"$work/conf"
kill -HUP "$daemon"
for _ in $(seq 200); do
	grep -q event=reloaded "$work/log" && break
	sleep 0.1
done
fetch GET /metrics >"$work/all"
ktap_case over_http "counters over loopback HTTP" over_http
ktap_case counters_documented "every counter is documented with its unit" counters_documented
ktap_case counters_well_formed "counters are OpenMetrics" counters_well_formed all
ktap_case pools_kept_back "pools are named to all where that is configured, alone" pools_kept_back
ktap_case dashboard_is_true "the dashboard knows only counters that are there" dashboard_is_true
ktap_case second_daemon "a second daemon in one place is refused" second_daemon
kill "$daemon"
wait "$daemon"
status=$?
daemon=
ktap_case restart_equal "a sequence outlives engine and daemon, to the bit" restart_equal
ktap_case ended "it ends when told, and takes its sockets along" ended
ktap_end
