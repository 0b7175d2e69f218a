"""The world of a simulated cluster: does one bad thing after the other, and puts all right at the end."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import msgspec

from storage.membership.contract import Change
from tests.simulation.cluster.agenda import MILLISECOND
from tests.simulation.cluster.authority import AUTHORITY
from tests.simulation.cluster.network import Weather
from tests.simulation.cluster.workload import Reader, Writer

if TYPE_CHECKING:
    from storage.membership.values import Epoch
    from tests.simulation.cluster.cluster import Cluster
    from tests.simulation.cluster.node import Machine

__all__ = ["Trouble"]

FULL_FRAMES_MAX = 20
"""So many more frames fit on a disk that becomes full."""


class Trouble:
    """See the module."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._random = Random(cluster.random.random())
        self._over = False

    def begin(self) -> None:
        """From now on bad things happen."""
        self._cluster.authority.made_epoch = self._epoch_made
        if self._cluster.faults.kinds:
            self._cluster.agenda.after(self._cluster.faults.next_ns(), self._happen)

    def heal(self) -> None:
        """From now on nothing bad happens, and what happened is put right."""
        cluster = self._cluster
        self._over = True
        cluster.say("HEAL")
        cluster.faults.on = False
        cluster.network.weather = Weather()
        cluster.network.heal()
        cluster.authority.come_back()
        for machine in cluster.machines.values():
            machine.slow_disk_factor = 1
            machine.clocks.heal()
            for platter in machine.platters.values():
                platter.capacity_frames = None
            cluster.start_again(machine)

    def _happen(self) -> None:
        if self._over:
            return
        cluster, kind = self._cluster, self._cluster.faults.draw()
        cluster.faults.injected[kind] += 1
        getattr(self, "_" + kind.replace(" ", "_").replace("-", "_"))()
        cluster.agenda.after(cluster.faults.next_ns(), self._happen)

    def _machine(self) -> Machine:
        """One that runs, if there is any; leaders and their followers more often than others."""
        cluster, random = self._cluster, self._random
        epochs = list(cluster.authority.view.epochs.values())
        if epochs and random.random() < 0.6:
            epoch = random.choice(epochs)
            return cluster.machines[random.choice((epoch.leader, *epoch.members))]
        return cluster.machines[random.choice(cluster.node_names)]

    def _back(self, machine: Machine) -> None:
        self._cluster.agenda.after(
            self._cluster.faults.restarts_ns(), self._cluster.start_again, machine
        )

    def _epoch_made(self, epoch: Epoch) -> None:
        faults = self._cluster.faults
        if faults.happens("ends at an epoch", faults.end_after_epoch_probability):
            name = self._random.choice((epoch.leader, *epoch.members))
            delay_ns = int(self._random.random() * 20 * MILLISECOND)
            self._cluster.agenda.after(delay_ns, self._end, self._cluster.machines[name])

    def _end(self, machine: Machine) -> None:
        if self._over:
            return
        self._cluster.say(f"{machine.name} ends at an epoch")
        if self._random.random() < 0.5 and self._cluster.may_lose_memory(machine):
            machine.cut_power()
        else:
            machine.kill()
        self._back(machine)

    def _later(self, call, *arguments: object) -> None:
        self._cluster.agenda.after(self._cluster.faults.lasts_ns(), call, *arguments)

    # --- machines ----------------------------------------------------------------------------------------------

    def _kill(self) -> None:
        machine = self._machine()
        self._cluster.say(f"kill {machine.name}")
        machine.kill()
        self._back(machine)

    def _power_cut(self) -> None:
        machine = self._machine()
        if self._cluster.may_lose_memory(machine):
            self._cluster.say(f"power cut {machine.name}")
            machine.cut_power()
            self._back(machine)

    def _blackout(self) -> None:
        """All machines at once; where the pools survive that, their power, else their processes."""
        cut = self._cluster.options.durable and self._random.random() < 0.7
        self._cluster.say("blackout, " + ("power" if cut else "processes"))
        for machine in self._cluster.machines.values():
            if cut:
                machine.cut_power()
            else:
                machine.kill()
            self._back(machine)

    def _wiped_disk(self) -> None:
        machine = self._machine()
        if self._cluster.may_lose_disk(machine):
            self._cluster.say(f"wipe {machine.name}")
            machine.wipe()
            self._back(machine)

    def _pause(self) -> None:
        machine = self._machine()
        if machine.node is not None:
            self._cluster.say(f"pause {machine.name}")
            machine.node.pause(self._cluster.faults.lasts_ns())

    def _slow_disk(self) -> None:
        self._machine().slow_disk_factor = self._random.choice((1, 10, 100))

    def _full_disk(self) -> None:
        machine = self._machine()
        for platter in machine.platters.values():
            platter.capacity_frames = len(platter.frames) + self._random.randrange(FULL_FRAMES_MAX)
        self._later(self._room, machine)

    def _room(self, machine: Machine) -> None:
        for platter in machine.platters.values():
            platter.capacity_frames = None

    def _clock_jump(self) -> None:
        machine = self._machine()
        machine.clocks.jump()
        self._cluster.say(f"clock of {machine.name} jumps")

    # --- network and authority ---------------------------------------------------------------------------------

    def _everybody(self) -> list[str]:
        mounts = [mount.name for mount in self._cluster.mounts if mount.alive]
        return [*self._cluster.node_names, *mounts]

    def _some(self, names: list[str]) -> list[str]:
        return self._random.sample(names, self._random.randint(1, max(1, len(names) - 1)))

    def _partition(self) -> None:
        """Two sides that do not hear each other; the authority is on one of them, or hears both."""
        names = self._everybody()
        if self._random.random() < 0.5:
            names.append(AUTHORITY)
        side = self._some(names)
        other = [name for name in names if name not in side]
        self._cluster.say(f"partition {side} | {other}")
        links = self._cluster.network.cut(side, other)
        self._mend_later(links | self._cluster.network.cut(other, side))

    def _one_way_cut(self) -> None:
        names = [*self._everybody(), AUTHORITY]
        sources, targets = self._some(names), self._some(names)
        self._cluster.say(f"one-way cut {sources} -> {targets}")
        self._mend_later(self._cluster.network.cut(sources, targets))

    def _leader_cut_off(self) -> None:
        """From the others, from the authority, or from both; perhaps one way only."""
        epochs = list(self._cluster.authority.view.epochs.values())
        if not epochs:
            return
        epoch, random = self._random.choice(epochs), self._random
        others = random.choice(
            (
                list(epoch.members),
                [AUTHORITY],
                [*epoch.members, AUTHORITY],
                self._some(self._everybody()),
            )
        )
        ways = random.choice(("in", "out", "both"))
        self._cluster.say(f"cut off {epoch.leader} from {others} {ways}")
        for other in others:  # Each is mended at a time of its own.
            if ways != "in":
                self._mend_later(self._cluster.network.cut([epoch.leader], [other]))
            if ways != "out":
                self._mend_later(self._cluster.network.cut([other], [epoch.leader]))

    def _mend_later(self, links: set[tuple[str, str]]) -> None:
        self._later(self._mend, links)

    def _mend(self, links: set[tuple[str, str]]) -> None:
        self._cluster.say(f"{len(links)} links mended")
        self._cluster.network.mend(links)

    def _weather(self) -> None:
        self._cluster.network.weather = Weather.drawn(self._random)

    def _authority_away(self) -> None:
        self._cluster.say("authority away")
        self._cluster.authority.go_away()
        self._later(self._cluster.authority.come_back)

    def _authority_unreachable(self) -> None:
        names = self._some(self._cluster.node_names)
        self._mend_later(self._cluster.network.cut(names, [AUTHORITY]))

    # --- people ------------------------------------------------------------------------------------------------

    def _drained_node(self) -> None:
        """An operator wants a node empty, or has it back."""
        cluster, view = self._cluster, self._cluster.authority.view
        node = view.nodes[self._random.choice(cluster.node_names)]
        active = [n for n in view.nodes.values() if n.state == "active"]
        if node.state == "active" and len(active) <= cluster.plan.replicas:
            return
        state = "draining" if node.state == "active" else "active"
        cluster.say(f"{node.name} is {state}")
        cluster.authority.decide([Change(node, msgspec.structs.replace(node, state=state))])

    def _mount_killed(self) -> None:
        """Not the ticker's, the first; and another takes its place."""
        cluster = self._cluster
        victims = [mount for mount in cluster.mounts[1:] if mount.alive]
        if victims:
            victim = self._random.choice(victims)
            cluster.say(f"{victim.name} is killed")
            victim.end()
            worker = Writer if self._random.random() < 0.6 else Reader
            worker(cluster, cluster.mount(), Random(self._random.random()))
