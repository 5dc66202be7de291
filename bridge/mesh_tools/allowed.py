"""Which of the mesh's own tools a participant is offered: those that its rights allow it to use on somebody, or on some topic. Where the
broker does not say what it may, it may."""

from bridge.mesh_tools.doing import Doing
from mesh import Mesh
from mesh.policy.rights import matches
from mesh.policy.rights.compile import HEALTH_TOPIC
from mesh.subjects import EACH


def always(_: Doing) -> bool:
    return True


def sends(tools: Doing) -> bool:
    """Whether some rule lets it send to somebody."""
    mesh = tools.mesh
    return _some(mesh, mesh.subjects.rights_send(EACH, mesh.name))


def calls(tools: Doing) -> bool:
    """Whether it may have somebody's tools called as jobs."""
    mesh = tools.mesh
    return _some(mesh, mesh.subjects.rights_job(EACH, mesh.name))


def publishes(tools: Doing) -> bool:
    """Whether it may publish on some topic, besides how it is itself."""
    mesh = tools.mesh
    subjects, me = mesh.subjects, mesh.name
    return _some(mesh, subjects.rights_publish(me, None), subjects.rights_publish(me, HEALTH_TOPIC))


def hears(tools: Doing) -> bool:
    return tools.inbox.gets_events


def _some(mesh: Mesh, wanted: str, but: str = "") -> bool:
    rights = mesh.connection.rights
    return rights is None or any(each != but and (matches(wanted, each) or matches(each, wanted)) for each in rights.publish)
