# SPDX-License-Identifier: MIT
#
# Of what kmemleak says: the objects that were made on behalf of a module that is gone, whose
# functions have no names any more.  What the core loses by itself is its own.
function tell()
{
	if (ours)
		printf "%s", object
	object = ""
	ours = 0
}

/^unreferenced object/ { tell() }
{ object = object $0 "\n" }
/^ *(\[<[^>]*>\] )?0x[0-9a-f]+$/ || /\[kvt/ { ours = 1 }
END { tell() }
