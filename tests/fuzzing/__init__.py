"""Random bytes for every parser that sees bytes from outside, and for a mesh that runs.

`targets` is the list of parsers with what each may raise, `mutate` makes inputs out of good ones, `parsers` feeds the ones to the others,
and `live` says nonsense to a broker, an agent, the control plane and the HTTP front while a bystander keeps calling. `scripts/fuzz` runs
both for as long as one likes; a short run is among the tests.
"""
