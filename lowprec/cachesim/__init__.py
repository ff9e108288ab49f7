"""A multi-core cache simulator whose coherence protocol can be changed, and SGD on it.

>>> from lowprec.cachesim import Machine, Obstinate, model_region, sgd_streams
>>> machine = Machine(protocol=Obstinate(0.95, [model_region("D8M8", 256)]))
>>> streams = sgd_streams("D8M8", 256, cores=18)
>>> for core, stream in enumerate(streams):
...     machine.feed(core, stream, passes=1000)
>>> accesses = machine.run()
>>> machine.counters().kept[0] > 0
True

docs/cache.md says what is modelled.
"""

from lowprec.cachesim.machine import LINE, Core, Counters, Level, LineState, Machine, MachineConfig
from lowprec.cachesim.protocol import INVALID, MESI, MSI, Event, Obstinate, Protocol, State
from lowprec.cachesim.streams import ACCESS, MODEL, Instructions, Stream, as_stream, instructions, sgd_streams
from lowprec.cachesim.traces import read_trace, write_trace
from lowprec.cachesim.training import Epoch, SimulatedTraining, model_region, train

__all__ = [
    "ACCESS",
    "INVALID",
    "LINE",
    "MESI",
    "MODEL",
    "MSI",
    "Core",
    "Counters",
    "Epoch",
    "Event",
    "Instructions",
    "Level",
    "LineState",
    "Machine",
    "MachineConfig",
    "Obstinate",
    "Protocol",
    "SimulatedTraining",
    "State",
    "Stream",
    "as_stream",
    "instructions",
    "model_region",
    "read_trace",
    "sgd_streams",
    "train",
    "write_trace",
]
