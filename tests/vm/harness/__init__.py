"""What guest tests are written with.

    from harness import test, Machine

    @test
    def prints_its_processors(t):
        machine = t.small(cpus=2, run="nproc")
        t.equal(machine.wait(), 0)
        t.contains(machine.console.text, "2")

Every machine that a test starts is ended with it, and a test fails when it leaves a process, a
socket or a tap behind, whatever else it found.
"""
from .machine import Machine
from .suite import Failure, Skip, test

__all__ = ["Failure", "Machine", "Skip", "test"]
