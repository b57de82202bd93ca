#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# The suites of this folder as one: their cases under "suite.case".
set -u
cd "$(dirname "$0")" || exit 1

echo "KTAP version 1"
for suite in cli shim plan trace system daemon docs; do
	./$suite.sh || echo "# $suite: exit status $?"
done 2>&1 | awk '
	/^KTAP version/ { next }
	/^1\.\./ { next }
	/^(not )?ok / { bad = bad || /^not/; sub(/ok [0-9]+ /, "ok " ++number " "); print; next }
	/^Bail out!/ { print "not ok " ++number " " substr($0, 11); bad = 1; next }
	{ print }
	END { print "1.." number; exit bad || !number }
'
