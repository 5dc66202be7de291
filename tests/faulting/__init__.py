"""A mesh of real processes under load, whose processes are killed, stopped and cut off, and then a look at what became of its work.

| module | what |
|---|---|
| plan.py | which faults come when: pure, out of a seed |
| parts.py | the programs that run: those who work, and the control plane |
| askers.py | those who send and call |
| names.py | who there is, and what they are asked for |
| notes.py | what each of them notes as it goes; a kill takes nothing of it away |
| world.py | the broker and the processes: started, disturbed, started again, ended |
| evidence.py | what is read at the end: notes, effects, dead letters, and what the broker still holds |
| check.py | what must be true of that: pure |
| run.py | all of it, in order |

`scripts/faults` runs it for as long as one likes; a short run is among the tests. `docs/decisions/0017` says what is promised, and how it
is judged.
"""
