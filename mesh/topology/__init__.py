"""The streams, consumers and buckets of the mesh: declared as data (`declared`), and compared with what a broker has (`plan`)."""

from mesh.topology.declared import HEALTH, HEALTH_TTL, JOURNAL, REGISTRY, Topology, declare, double_captures, overlaps, reader_spec
from mesh.topology.plan import Action, Actual, Difference, Kind, differences, plan
from mesh.topology.specs import BucketSpec, ConsumerSpec, StreamSpec, bucket_stream, bucket_subject

__all__ = [
    "HEALTH",
    "HEALTH_TTL",
    "JOURNAL",
    "REGISTRY",
    "Action",
    "Actual",
    "BucketSpec",
    "ConsumerSpec",
    "Difference",
    "Kind",
    "StreamSpec",
    "Topology",
    "bucket_stream",
    "bucket_subject",
    "declare",
    "differences",
    "double_captures",
    "overlaps",
    "plan",
    "reader_spec",
]
