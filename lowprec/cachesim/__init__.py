"""A multi-core cache simulator whose coherence protocol can be changed."""
from lowprec.cachesim.machine import *
from lowprec.cachesim.protocol import *
from lowprec.cachesim.streams import *
from lowprec.cachesim.training import *
