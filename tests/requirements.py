"""What was asked for of messages, sessions and jobs, as a list: each behaviour with its place in the specification and what proves it.

A proof is a test's node id here, or `@pytest.mark.proves("key")` at the test. `tests/test_requirements.py` fails for a behaviour that
nothing proves, and for a proof of a behaviour that is not here. What is known to be missing stands here with its reason. Pure data.
"""

from dataclasses import dataclass
from typing import Final

HANDSHAKE: Final = "handshake"
MODERN: Final = "modern"
REVISIONS: Final = {HANDSHAKE: "2025-11-25", MODERN: "2026-07-28"}

CLIENT_REQUEST: Final = "client request"
SERVER_REQUEST: Final = "server request"
CLIENT_NOTIFICATION: Final = "client notification"
SERVER_NOTIFICATION: Final = "server notification"


@dataclass(frozen=True)
class Requirement:
    key: str
    place: str
    """Section of the specification, of JSON-RPC 2.0, or of docs/binding.md."""
    proofs: tuple[str, ...] = ()
    """Node ids without parameters, beside those that a marker names."""
    gap: str = ""
    """Why it is not there, where it is known not to be."""


@dataclass(frozen=True)
class Message:
    """A row of the table of messages."""

    kind: str
    method: str
    section: str
    eras: tuple[str, ...]


_BOTH: Final = (HANDSHAKE, MODERN)
MESSAGES: Final = (
    Message(CLIENT_REQUEST, "tools/list", "server/tools", _BOTH),
    Message(CLIENT_REQUEST, "tools/call", "server/tools", _BOTH),
    Message(CLIENT_REQUEST, "prompts/list", "server/prompts", _BOTH),
    Message(CLIENT_REQUEST, "prompts/get", "server/prompts", _BOTH),
    Message(CLIENT_REQUEST, "resources/list", "server/resources", _BOTH),
    Message(CLIENT_REQUEST, "resources/read", "server/resources", _BOTH),
    Message(CLIENT_REQUEST, "resources/templates/list", "server/resources", _BOTH),
    Message(CLIENT_REQUEST, "completion/complete", "server/utilities/completion", _BOTH),
    Message(CLIENT_REQUEST, "initialize", "basic/lifecycle", (HANDSHAKE,)),
    Message(CLIENT_REQUEST, "ping", "basic/utilities/ping", (HANDSHAKE,)),
    Message(CLIENT_REQUEST, "logging/setLevel", "server/utilities/logging", (HANDSHAKE,)),
    Message(CLIENT_REQUEST, "resources/subscribe", "server/resources", (HANDSHAKE,)),
    Message(CLIENT_REQUEST, "resources/unsubscribe", "server/resources", (HANDSHAKE,)),
    Message(CLIENT_REQUEST, "server/discover", "server/discover", (MODERN,)),
    Message(CLIENT_REQUEST, "subscriptions/listen", "basic/utilities/subscriptions", (MODERN,)),
    Message(CLIENT_NOTIFICATION, "notifications/cancelled", "basic/utilities/cancellation", _BOTH),
    Message(CLIENT_NOTIFICATION, "notifications/initialized", "basic/lifecycle", (HANDSHAKE,)),
    Message(CLIENT_NOTIFICATION, "notifications/progress", "basic/utilities/progress", (HANDSHAKE,)),
    Message(CLIENT_NOTIFICATION, "notifications/roots/list_changed", "client/roots", (HANDSHAKE,)),
    Message(SERVER_REQUEST, "ping", "basic/utilities/ping", (HANDSHAKE,)),
    Message(SERVER_REQUEST, "roots/list", "client/roots", (HANDSHAKE,)),
    Message(SERVER_REQUEST, "sampling/createMessage", "client/sampling", (HANDSHAKE,)),
    Message(SERVER_REQUEST, "elicitation/create", "client/elicitation", (HANDSHAKE,)),
    Message(SERVER_NOTIFICATION, "notifications/cancelled", "basic/utilities/cancellation", _BOTH),
    Message(SERVER_NOTIFICATION, "notifications/progress", "basic/utilities/progress", _BOTH),
    Message(SERVER_NOTIFICATION, "notifications/message", "server/utilities/logging", _BOTH),
    Message(SERVER_NOTIFICATION, "notifications/tools/list_changed", "server/tools", _BOTH),
    Message(SERVER_NOTIFICATION, "notifications/prompts/list_changed", "server/prompts", _BOTH),
    Message(SERVER_NOTIFICATION, "notifications/resources/list_changed", "server/resources", _BOTH),
    Message(SERVER_NOTIFICATION, "notifications/resources/updated", "server/resources", _BOTH),
    Message(SERVER_NOTIFICATION, "notifications/elicitation/complete", "client/elicitation", (HANDSHAKE,)),
    Message(SERVER_NOTIFICATION, "notifications/subscriptions/acknowledged", "basic/utilities/subscriptions", (MODERN,)),
)

ELSEWHERE: Final = {
    (SERVER_NOTIFICATION, "notifications/cancelled", MODERN),
    (SERVER_NOTIFICATION, "notifications/message", MODERN),
}
"""Proved by a test of their own, which names them."""

_TABLE: Final = tuple(
    Requirement(
        f"{each.kind} {each.method}, {era}",
        f"{REVISIONS[era]} {each.section}",
        () if (each.kind, each.method, era) in ELSEWHERE else ("tests/test_differential.py::test_every_message_passes",),
    )
    for each in MESSAGES
    for era in each.eras
)

_LOGS: Final = (
    Requirement("logs of a modern stdio server, for several callers at once", "2026-07-28 server/utilities/logging", gap=(
        "on its pipe, which all callers share, a message names no request: while more than one connection has calls there, whose it is "
        "cannot be told, and it reaches nobody"
    )),
)  # fmt: skip

_BYTES: Final = (
    Requirement("bytes", "basic: a transport preserves the JSON-RPC format", (
        "tests/test_connect.py::test_what_a_host_says_arrives_byte_by_byte",
    )),
    Requirement("bytes over HTTP", "basic/transports", ("tests/test_http_port_bytes.py::test_bytes_pass_unchanged_both_ways",)),
    Requirement("bytes of translated questions", "basic/patterns/mrtr", (
        "tests/test_translation_faults.py::test_questions_and_answers_pass_byte_for_byte",
    )),
    Requirement("carriage returns", "basic/transports, stdio", gap=(
        "one inside a message is white space; on a pipe a bridge writes a space for it: readers with universal newlines would see two lines"
    )),
    Requirement("vendor methods", "JSON-RPC 2.0, section 4"),
    Requirement("unknown notifications", "JSON-RPC 2.0, section 4.1"),
    Requirement("_meta", "basic: _meta"),
    Requirement("nulls", "basic: messages"),
    Requirement("error.data", "JSON-RPC 2.0, section 5.1", ("tests/test_bridge.py::test_an_error_keeps_code_message_and_data",)),
    Requirement("unknown result fields", "basic: responses"),
    Requirement("ids", "basic: requests have a string or integer id"),
    Requirement("ids in use", "basic: requests", ("tests/test_connect.py::test_two_requests_with_one_id_are_not_confused",)),
    Requirement("ids that collide", "basic: requests", (
        "tests/test_exchanges.py::test_hundreds_of_callers_whose_ids_collide_get_their_own_answers",
    )),
    Requirement("garbage", "JSON-RPC 2.0, section 5.1", ("tests/test_connect.py::test_garbage_from_a_host_is_answered_and_ends_nothing",)),
    Requirement("progress tokens", "basic/utilities/progress"),
    Requirement("progress order", "basic/utilities/progress", (
        "tests/test_bridge.py::test_progress_arrives_in_order_and_cancellation_reaches_the_server",
    )),
    Requirement("cancelled", "basic/utilities/cancellation", (
        "tests/test_connect.py::test_a_cancellation_of_the_host_reaches_the_server",
    )),
    Requirement("large bodies", "basic/transports", ("tests/test_parts.py::test_a_large_body_arrives_whole_both_ways",)),
)  # fmt: skip

_SESSIONS: Final = (
    Requirement("initialize is the server's own answer", "2025-11-25 basic/lifecycle", (
        "tests/test_differential.py::test_no_difference",
        "tests/test_translation_hosts.py::test_a_server_of_both_eras_keeps_its_own_handshake",
    )),
    Requirement("a child a session, ended with its host", "2025-11-25 basic/lifecycle", (
        "tests/test_connect.py::test_a_session_ends_when_the_host_leaves",
    )),
    Requirement("log level and subscriptions belong to one host", "2025-11-25 server/utilities/logging", (
        "tests/test_gather_hosts.py::test_level_and_subscriptions_outlive_a_session",
    )),
    Requirement("a server asks within a call", "2025-11-25 client/elicitation", ("tests/test_differential.py::test_every_message_passes",)),
    Requirement("a modern server's own state finds its instance", "2026-07-28 basic/patterns/mrtr"),
    Requirement("a capability that was not declared", "2026-07-28 basic: MissingRequiredClientCapabilityError"),
    Requirement("a server that dies ends its session", "2025-11-25 basic/lifecycle", (
        "tests/test_connect.py::test_a_session_whose_server_dies_says_so_and_can_begin_again",
    )),
    Requirement("an instance that dies ends its sessions", "2025-11-25 basic/lifecycle", (
        "tests/test_connect.py::test_a_session_whose_bridge_is_killed_says_so_and_can_begin_again",
    )),
    Requirement("the status that makes an HTTP client start anew", "2025-11-25 basic/transports, session management", (
        "tests/test_web_session.py::test_a_session_whose_instance_dies_is_unknown",
    )),
    Requirement("a session lives as long as its host gives signs of life", "2025-11-25 lifecycle"),
    Requirement("a server asks outside of a call", "2025-11-25 client/roots"),
    Requirement("one shared child where the entry says so", "2025-11-25 lifecycle"),
    Requirement("a session survives a reconnect to the broker", "2025-11-25 lifecycle"),
)  # fmt: skip

_PEERS: Final = (
    Requirement("servers that others wrote, through every pair of ports", "basic/transports, both eras"),
    Requirement("the inspector, both eras, stdio and HTTP", "basic/transports, both eras"),
    Requirement("the public conformance suite", "2025-06-18 and 2025-11-25, all of the server's side"),
    Requirement("a client that leaves without a word makes room", "2025-11-25 basic/transports, session management"),
)

_TASKS: Final = (
    Requirement("tasks are announced where the server has none", "2025-11-25 basic/utilities/tasks; 2026-07-28 extension tasks", (
        "tests/test_tasks.py::test_tasks_are_announced_where_the_server_has_none",
    )),
    Requirement("tasks of a server are left alone", "2025-11-25 basic/utilities/tasks; 2026-07-28 extension tasks", (
        "tests/test_tasks_link.py::test_tasks_of_a_server_are_left_alone",
    )),
    Requirement("a tool that must not be a task is none", "2025-11-25 basic/utilities/tasks, tool-level negotiation", (
        "tests/test_tasks.py::test_tools_that_must_not_be_tasks_stay_so",
        "tests/test_tasks_link.py::test_a_tool_that_must_not_be_a_task_is_none",
    )),
    Requirement("tools/call as a task, tasks/get, tasks/result, tasks/list", "2025-11-25 basic/utilities/tasks"),
    Requirement("tasks/cancel reaches the worker, and ends in cancelled", "2025-11-25 basic/utilities/tasks, task cancellation"),
    Requirement("notifications/tasks/status, and progress of a task", "2025-11-25 basic/utilities/tasks, task notifications"),
    Requirement("tasks/list in pages", "2025-11-25 basic/utilities/tasks, task listing", (
        "tests/test_tasks_link.py::test_tasks_come_in_pages",
    )),
    Requirement("a server decides on a task, tasks/get, tasks/update, tasks/cancel", "2026-07-28 extension tasks"),
    Requirement("notifications/tasks on a listen", "2026-07-28 extension tasks, task status notifications"),
    Requirement("a client that does not declare the extension has no tasks", "2026-07-28 extension tasks, capability negotiation", (
        "tests/test_tasks.py::test_what_is_refused", "tests/test_tasks_link.py::test_everything_else_passes",
    )),
    Requirement("a task outlives its host and its bridges", "2026-07-28 extension tasks, task polling"),
    Requirement("a task runs twice only where its tool says that it may", "2025-11-25 server/tools, tool annotations"),
    Requirement("a task is one identity's", "2025-11-25 basic/utilities/tasks, task isolation; 2026-07-28 extension tasks, auth binding"),
    Requirement("a server that must ask ends its task with the error that says so", "2026-07-28 extension tasks, error handling"),
    Requirement("input_required of a task", "2025-11-25 basic/utilities/tasks, input required status; 2026-07-28 extension tasks", gap=(
        "a task is a job, and a job asks nobody: the task fails with the error that names the capability (decision 15)"
    )),
    Requirement("tasks of hosts, for a server's requests", "2025-11-25 basic/utilities/tasks, client capabilities", gap=(
        "they pass as they are, in a session: a server may ask its host for a task, and the bridge makes none of it"
    )),
)  # fmt: skip

_JOBS: Final = (
    Requirement("a job is submitted, left, and collected by another process of its caller", "binding, section 11", (
        "tests/test_jobs.py::test_submitted_left_and_collected_by_another_process",
    )),
    Requirement("the same submission is one job", "binding, section 11", (
        "tests/test_jobs.py::test_one_key_is_one_job",
        "tests/test_jobs_faults.py::test_what_is_stored_twice_is_not_taken_from_who_does_it",
    )),
    Requirement("progress of a job", "binding, section 11", (
        "tests/test_jobs.py::test_progress_is_seen",
        "tests/test_jobs_faults.py::test_who_watches_is_told_and_does_not_ask",
    )),
    Requirement("a cancellation reaches the worker", "binding, section 11", (
        "tests/test_jobs.py::test_a_cancellation_reaches_the_worker",
        "tests/test_jobs_bridge.py::test_any_servers_tool_is_a_job",
    )),
    Requirement("a deadline ends a job, with and without a worker", "binding, section 11", (
        "tests/test_jobs.py::test_past_its_deadline_the_work_is_stopped",
        "tests/test_jobs.py::test_nobody_comes_before_the_deadline",
    )),
    Requirement("a job that nobody does for a week is expired", "binding, section 11", (
        "tests/test_jobs_desk.py::test_what_nobody_does_for_a_week_is_expired",
    )),
    Requirement("a life cycle as a table", "binding, section 11", (
        "tests/test_job_life.py::test_the_table_has_every_pair",
    )),
    Requirement("results are kept for a set time", "binding, section 11", (
        "tests/test_jobs.py::test_a_role_does_jobs_and_results_go_when_they_are_not_kept",
    )),
    Requirement("a worker that dies is replaced, and attempts have a limit", "binding, section 11", (
        "tests/test_jobs_bridge.py::test_a_killed_bridge_is_replaced_and_the_job_is_done",
        "tests/test_jobs_bridge.py::test_a_job_that_kills_its_bridge_ends",
    )),
    Requirement("jobs outlive a killed broker", "binding, section 11", (
        "tests/test_jobs_bridge.py::test_a_killed_broker_loses_no_job",
        "tests/test_faults.py::test_nothing_is_lost_and_nothing_is_done_twice",
    )),
    Requirement("jobs are done and waited for while no control plane runs", "binding, section 11", (
        "tests/test_jobs_faults.py::test_while_no_control_plane_runs_jobs_are_done_and_waited_for",
    )),
    Requirement("every MCP tool can be called as a job", "binding, section 11", (
        "tests/test_jobs_bridge.py::test_any_servers_tool_is_a_job",
    )),
    Requirement("mesh jobs submit, list, show, wait, cancel", "binding, section 11", (
        "tests/test_jobs_cli.py::test_submitted_listed_shown_and_waited_for",
        "tests/test_jobs_cli.py::test_ctrl_c_leaves_and_the_job_goes_on",
    )),
    Requirement("request_response and subscribe_to_response", "binding, section 11", (
        "tests/test_jobs.py::test_the_doors_of_the_message_broker",
    )),
    Requirement("jobs of others are neither seen nor ended", "binding, section 11", (
        "tests/test_jobs.py::test_waiting_has_an_end_and_others_see_nothing",
    )),
    Requirement("who gets no job costs the broker no consumer", "binding, section 11", (
        "tests/test_jobs_faults.py::test_an_idle_worker_has_no_consumer_at_the_broker",
    )),
)  # fmt: skip

REQUIREMENTS: Final = (*_TABLE, *_LOGS, *_BYTES, *_SESSIONS, *_PEERS, *_TASKS, *_JOBS)
