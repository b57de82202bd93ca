# SPDX-License-Identifier: MIT
#
# One KTAP stream from the guest's many: cases are numbered anew and prefixed by their
# suite, each suite's plan and exit status are checked.  The last case is the verdict.

function result(good, text)
{
	print (good ? "ok " : "not ok ") ++number " " text
	fflush()
}

# The machine has these, so a case that is skipped for want of one did not look well.
function misses_what_is_there(line)
{
	return line ~ /# SKIP no (free disk|store|device mapper|module|loop device|such ring)/
}

BEGIN { print "KTAP version 1"; suite = ""; verdict = "" }

{ gsub(/\r/, "") }

/^# suite-begin / { suite = $3; cases = 0; bad = 0; plan = -1; whole = ""; next }

/^# suite-end / {
	if (whole != "")
		result(!misses_what_is_there("# SKIP " whole), suite " # SKIP " whole)
	else if (plan < 0 || plan != cases)
		result(0, suite ".plan expected " (plan < 0 ? "a plan" : plan " cases") ", got " \
			cases " (exit " $4 ")")
	else if ($4 != 0 && $4 != 4 && !bad)
		result(0, suite ".exit expected 0, got " $4)
	print "# " suite ": " cases " cases, " bad " failed, " $5 " s"
	suite = ""
	next
}

/^# verdict: / { verdict = substr($0, 12); next }

suite != "" && /^(ok|not ok) / {
	good = $1 == "ok" && !misses_what_is_there($0)
	cases++
	bad += !good
	line = $0
	sub(/^(not )?ok [0-9]+ ?(- )?/, "", line)
	result(good, suite "." line)
	next
}

suite != "" && /^1\.\.[0-9]+/ {
	plan = substr($1, 4)
	if (plan == 0 && match($0, /# SKIP */))
		whole = substr($0, RSTART + RLENGTH)
	next
}

/^(KTAP|TAP) version/ { next }

{ print (/^[# \t]/ ? "" : "# ") $0; fflush() }

END {
	if (suite != "")
		result(0, suite ".end expected, the machine stopped in it")
	result(verdict == "pass", "verdict" (verdict == "pass" ? "" : \
		verdict == "" ? " expected, got none" : " " verdict))
	print "1.." number
}
