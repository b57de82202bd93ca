# SPDX-License-Identifier: MIT
# Requests of several sessions in the order of time: session, then the ids of its blocks.
[ inputs
  | (input_filename | capture("(?<n>[0-9]+)[.]json$").n | tonumber) as $session
  | .requests[] | recurse(.requests[]?) | select(.hash_ids)
  | { t, session: $session, ids: .hash_ids } ]
| sort_by(.t)[]
| "\(.session) \(.ids | map(tostring) | join(" "))"
