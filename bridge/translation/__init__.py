"""Translation at the serving side, where it talks to a server; what is said is decided in `bridge.eras`, which is pure.

`modern`: a handshake server as the modern era sees it: `passing` (requests that are not asked back), `talks` (calls that may be), `pool`
(their children), `listens` (subscriptions). `handshake`: a modern server as a handshake host sees it: `asked` (a call and its rounds),
`standing` (the listen that is held for the host).
"""
