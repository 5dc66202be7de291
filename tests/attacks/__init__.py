"""The attack suite: each class of attack is a test of its own, against a real broker, with real credentials, while a bystander calls.

`ATTACKS` is the list. `tests/attacks/test_list.py` fails for a class without a test, and for a test that is not here. Pure data.

| column  | says                                                                                                          |
|---------|---------------------------------------------------------------------------------------------------------------|
| test    | the class: `tests/attacks/test_{family}.py::test_{test}`                                                      |
| by      | agent: one that answers and may call nobody. host: one that may call everybody. pair: both, who conspire       |
| stopped | by the broker; by a receiver or the front, who log it; by the escape; by the authority that issues credentials    |
| bites   | how it is shown to succeed: by a user whom the broker holds to nothing; with the check taken away; by its double, |
|         | the same thing done where it is right; or nothing of that, and why                                            |
"""

from dataclasses import dataclass
from typing import Final

BROKER, RECEIVER, FRONT, ESCAPE, AUTHORITY = "broker", "receiver", "front", "escape", "authority"
UNHELD, UNCHECKED, DOUBLE = "by a user who is held to nothing", "with the check taken away", "its double succeeds"


@dataclass(frozen=True)
class Attack:
    family: str
    test: str
    by: str
    stopped: str
    bites: str


def _family(family: str, *rows: tuple[str, str, str, str]) -> tuple[Attack, ...]:
    return tuple(Attack(family, *row) for row in rows)


ATTACKS: Final = (
    *_family(
        "names",
        ("call_in_anothers_name", "agent, host", BROKER, UNHELD),
        ("notice_in_anothers_name", "agent, host", BROKER, UNHELD),
        ("probe_in_anothers_name", "agent, host", BROKER, UNHELD),
        ("part_in_anothers_name", "agent, host", BROKER, UNHELD),
        ("record_in_anothers_name", "agent, host", BROKER, UNHELD),
        ("say_that_another_is_gone", "agent, host", BROKER, UNHELD),
        ("a_connection_named_as_anothers", "agent", RECEIVER, "the control plane asks whether anybody listens, whatever the name"),
    ),
    *_family(
        "answers",
        ("answer_in_anothers_name", "agent, host", BROKER, UNHELD),
        ("answer_quietly_in_anothers_name", "agent, host", BROKER, UNHELD),
        ("answer_for_a_role_that_one_does_not_have", "agent, host", BROKER, UNHELD),
        ("take_the_calls_of_a_role_that_one_does_not_have", "agent, host", BROKER, UNHELD),
        ("answer_a_probe_in_anothers_name", "agent, host", BROKER, UNHELD),
        ("end_anothers_call_by_what_the_broker_answers", "agent, host", RECEIVER, UNCHECKED),
        ("answer_a_probe_by_what_the_broker_answers", "agent, host", RECEIVER, UNCHECKED),
        ("call_by_what_the_broker_answers", "agent, host", RECEIVER, "what arrives has no reply subject: there is nobody to answer"),
        ("deliver_a_stored_message_to_anothers_subscription", "pair", RECEIVER, UNCHECKED),
    ),
    *_family(
        "reading",
        ("read_anothers_calls", "agent, host", BROKER, UNHELD),
        ("read_anothers_replies", "agent, host", BROKER, UNHELD),
        ("read_anothers_quiet_calls_and_replies", "agent, host", BROKER, UNHELD),
        ("read_anothers_probes", "agent, host", BROKER, UNHELD),
        ("join_anothers_queue_group", "agent, host", BROKER, UNHELD),
        ("read_anothers_notices", "agent, host", BROKER, UNHELD),
        ("read_anothers_parts", "agent, host", BROKER, UNHELD),
        ("read_anothers_inbox", "agent, host", BROKER, UNHELD),
        ("read_anothers_keys", "agent, host", BROKER, UNHELD),
        ("read_what_streams_hold", "agent, host", BROKER, UNHELD),
    ),
    *_family(
        "consumers",
        ("find_out_anothers_reader", "agent, host", BROKER, UNHELD),
        ("pull_from_a_reader_by_a_guessed_name", "agent, host", BROKER, UNHELD),
        ("remove_reset_or_pause_anothers_reader", "agent, host", BROKER, UNHELD),
        ("have_the_broker_deliver_where_one_may_not_publish", "agent, host", BROKER, UNHELD),
        ("read_directly_to_where_one_may_not_publish", "agent, host", BROKER, UNHELD),
        ("change_a_stream", "agent, host", BROKER, UNHELD),
        ("name_an_object_as_anothers", "agent, host", BROKER, UNHELD),
        ("pose_as_a_service", "agent, host", BROKER, UNHELD),
        ("reach_the_system_account", "agent, host", BROKER, UNHELD),
        ("acknowledge_anothers_delivery", "agent, host", BROKER, UNHELD),
    ),
    *_family(
        "injection",
        ("have_a_responder_write_elsewhere", "pair", RECEIVER, UNCHECKED),
        ("have_a_prober_answer_elsewhere", "host", RECEIVER, DOUBLE),
        ("end_anothers_calls_by_what_the_broker_answers", "agent, host", RECEIVER, UNCHECKED),
        ("tell_the_control_plane_that_anothers_connection_ended", "pair", RECEIVER, UNHELD),
        ("have_the_broker_trace_to_where_one_may_not_publish", "agent, host", BROKER, UNHELD),
        ("schedule_a_message_in_anothers_name", "agent", BROKER, DOUBLE),
        ("keep_a_call_out_of_the_journal", "host", RECEIVER, UNCHECKED),
        ("put_into_the_journal_what_was_not", "agent, host", RECEIVER, "it is stored; no reader takes it for a call"),
        ("use_anothers_deduplication_id", "host", RECEIVER, DOUBLE),
        ("fill_an_instance_for_the_others", "host", RECEIVER, "the bound is lowered for the test; at it others still find a place"),
    ),
    *_family(
        "keys",
        ("write_anothers_key", "agent, host", BROKER, UNHELD),
        ("write_the_brokers_copy_of_a_key", "agent, host", BROKER, UNHELD),
        ("overwrite_anothers_registry_entry_by_what_the_broker_answers", "agent, host", RECEIVER, UNCHECKED),
        ("say_that_another_is_dead_by_what_the_broker_answers", "agent, host", RECEIVER, UNCHECKED),
        ("empty_a_bucket", "agent", BROKER, DOUBLE),
        ("empty_the_health_bucket", "agent", RECEIVER, "it is emptied, and filled again by the next beat; nobody is taken for dead"),
        ("a_key_that_never_expires", "agent", RECEIVER, "the rule alone, since a real one would take ten seconds"),
        ("fill_the_registry", "agent", RECEIVER, UNCHECKED),
        ("fill_the_health_bucket", "agent", BROKER, DOUBLE),
        ("an_entry_of_ones_own_that_names_another", "agent", RECEIVER, "it is stored; no reader believes it"),
    ),
    *_family(
        "sessions",
        ("speak_in_anothers_session", "host", RECEIVER, UNHELD),
        ("give_a_sign_of_life_for_anothers_session", "host", RECEIVER, UNHELD),
        ("cancel_or_resume_anothers_exchange", "host", RECEIVER, UNCHECKED),
        ("forge_or_replay_request_state", "host", RECEIVER, "see the next one"),
        ("forged_state_where_nothing_is_sealed", "host", RECEIVER, UNCHECKED),
    ),
    *_family(
        "escape",
        ("a_tool_whose_name_is_a_wildcard", "host", ESCAPE, UNCHECKED),
        ("an_agent_whose_name_is_a_wildcard", "agent, host", ESCAPE, UNCHECKED),
        ("names_that_no_participant_may_have", "agent", AUTHORITY, DOUBLE),
        ("a_subject_has_one_name_and_a_name_one_subject", "host", ESCAPE, DOUBLE),
        ("a_rule_that_is_no_rule", "agent", AUTHORITY, DOUBLE),
    ),
    *_family(
        "tokens",
        ("a_key_that_nobody_trusts", "agent", BROKER, DOUBLE),
        ("a_token_without_a_signature", "agent", BROKER, DOUBLE),
        ("another_users_token_with_a_key_of_ones_own", "agent", BROKER, DOUBLE),
        ("more_rights_in_a_token_than_its_scope_gives", "agent", BROKER, DOUBLE),
        ("a_membership_that_is_a_wildcard", "agent", ESCAPE, UNHELD),
        ("a_revoked_token", "agent", BROKER, DOUBLE),
        ("an_expired_token", "agent", BROKER, DOUBLE),
        ("a_role_named_as_an_agent", "agent", AUTHORITY, UNHELD),
    ),
    *_family(
        "messages",
        ("send_in_anothers_name", "agent, host", BROKER, UNHELD),
        ("an_agent_sends_to_nobody", "agent", BROKER, DOUBLE),
        ("take_anothers_messages", "agent, host", BROKER, UNHELD),
        ("acknowledge_anothers_message", "agent, host", BROKER, UNHELD),
        ("listen_to_anothers_messages", "agent, host", BROKER, UNHELD),
        ("have_lanes_made_for_another", "agent, host", RECEIVER, "its owner has them made each time that it listens"),
        ("write_anothers_dead_letter_or_the_brokers_word", "agent, host", BROKER, UNHELD),
        ("swallow_a_message_by_its_deduplication_id", "host", AUTHORITY, DOUBLE),
        ("have_the_stream_do_more_than_store", "host", BROKER, "the stream allows none of it, to nobody"),
        ("have_the_broker_write_a_word_of_its_own", "host", RECEIVER, "what the broker says: tests/test_dead_letters.py"),
        ("name_anothers_message_in_ones_own_dead_letter", "agent", RECEIVER, "one that names its own: tests/test_dead_letters.py"),
        ("answer_a_message_in_anothers_place", "agent, host", BROKER, UNHELD),
    ),
    *_family(
        "delivery",
        ("see_what_waits_for_others", "agent, host", RECEIVER, DOUBLE),
        ("say_what_another_has_done", "agent, host", BROKER, UNHELD),
        ("read_what_another_has_done", "agent, host", BROKER, UNHELD),
        ("write_anothers_dead_letter_of_events_or_jobs", "agent, host", BROKER, UNHELD),
        ("name_anothers_job_in_ones_own_dead_letter", "agent, host", RECEIVER, DOUBLE),
        ("name_anothers_event_in_ones_own_dead_letter", "agent", RECEIVER, "sent again it is for the writer alone: ONLY of events"),
    ),
    *_family(
        "schemas",
        ("write_the_bucket", "agent, host", BROKER, UNHELD),
        ("register_for_a_topic_that_one_may_not_publish_on", "agent", RECEIVER, DOUBLE),
        ("loosen_or_delete_what_another_registered", "host", RECEIVER, DOUBLE),
        ("schemas_that_reach_out_blow_up_or_never_end", "host", RECEIVER, "schemas that are taken: tests/test_compatibility.py"),
        ("schemas_that_are_hard_to_compare", "host", RECEIVER, DOUBLE),
        ("conversions_that_blow_up", "host", RECEIVER, "one that is taken: tests/test_event_schemas.py"),
        ("what_is_asked_of_the_control_plane_is_read_strictly", "host", RECEIVER, "what is answered: tests/test_event_schemas.py"),
        ("a_schema_under_anothers_key_counts_for_nobody", "host", RECEIVER, "one under its own key: tests/test_event_schemas.py"),
    ),
    *_family(
        "events",
        ("publish_in_anothers_name", "agent, host", BROKER, UNHELD),
        ("an_agent_publishes_and_broadcasts_nowhere_but_on_its_own_health", "agent", BROKER, UNHELD),
        ("hear_a_topic_through_the_broker", "agent", BROKER, UNHELD),
        ("hear_a_topic_through_a_consumer_of_ones_own", "agent, host", BROKER, UNHELD),
        ("hear_a_topic_through_the_control_plane", "agent", RECEIVER, "who may hear it: tests/test_events.py"),
        ("hear_through_anothers_subscription", "agent, host", BROKER, UNHELD),
        ("acknowledge_what_another_has_still_to_read", "agent, host", BROKER, "who knows the secret: its owner"),
        ("claim_another_source_or_write_what_is_no_event", "host", RECEIVER, DOUBLE),
        ("have_the_stream_do_more_than_store", "host", BROKER, "the stream allows none of it, to nobody"),
        ("have_the_broker_answer_into_the_stream", "host", RECEIVER, "it is stored; nobody gets it"),
        ("swallow_an_event_by_its_deduplication_id", "host", AUTHORITY, "see the one of messages"),
        ("replay_into_another_without_the_right_to_send", "agent, host", BROKER, DOUBLE),
        ("an_event_of_ones_own_dead_letter_reaches_nobody_else", "agent", RECEIVER, "it is sent again, to who wrote it"),
    ),
    *_family(
        "jobs",
        ("submit_in_anothers_name", "agent, host", BROKER, "one's own: tests/test_jobs.py"),
        ("submit_what_no_rule_allows", "agent", BROKER, "what one allows: tests/test_jobs.py"),
        ("write_how_anothers_job_stands", "agent, host", BROKER, "who does it: tests/test_jobs.py"),
        ("take_or_acknowledge_anothers_jobs", "agent, host", BROKER, "one's own: tests/test_jobs.py"),
        ("hear_of_anothers_jobs", "agent, host", BROKER, "one's own: tests/test_jobs.py"),
        ("look_at_end_or_guess_anothers_job", "agent, host", RECEIVER, DOUBLE),
        ("a_worker_writes_a_result_under_its_own_name_for_anothers_job", "agent", RECEIVER, "it is stored; nobody takes it for that job's"),
        ("swallow_a_job_by_its_deduplication_id", "host", AUTHORITY, "see the one of messages"),
        ("a_job_that_cannot_be_read_is_a_dead_letter_and_disturbs_no_other", "host", RECEIVER, DOUBLE),
        ("a_body_that_is_not_its_subjects", "host", RECEIVER, DOUBLE),
        ("end_a_job_by_a_word_that_the_broker_says", "host", RECEIVER, "a cancellation of its caller's does"),
    ),
    *_family(
        "streams",
        ("a_right_to_one_type_is_none_to_another", "host", BROKER, DOUBLE),
        ("an_agent_opens_no_streams", "agent", BROKER, UNHELD),
        ("frames_and_durable_messages_in_anothers_name", "agent, host", BROKER, UNHELD),
        ("consumers_of_durable_streams_are_the_control_planes", "agent, host", BROKER, UNHELD),
        ("frames_under_ones_own_name_reach_no_stream_of_another", "host", RECEIVER, DOUBLE),
        ("the_id_of_a_stream_is_no_line_of_the_protocol", "host", ESCAPE, DOUBLE),
        ("a_peer_that_asks_again_and_again_is_sent_no_flood", "host", RECEIVER, "one question is answered"),
        ("a_peer_that_ignores_its_credit_is_cut_off_and_fills_nothing", "host", RECEIVER, DOUBLE),
        ("another_asks_for_a_durable_stream_and_gets_its_own", "host", RECEIVER, DOUBLE),
        ("who_asks_for_many_consumers_gets_no_more", "host", RECEIVER, "the bound is lowered for the test"),
    ),
    *_family(
        "schedules",
        ("write_a_schedule_or_what_is_due", "agent, host", BROKER, UNHELD),
        ("ask_the_broker_for_what_is_scheduled", "agent, host", BROKER, UNHELD),
        ("schedule_headers_on_a_subject_of_ones_own", "host", BROKER, "the streams take no schedules, of nobody"),
        ("a_sender_in_the_body_of_a_message_of_ones_own", "host", RECEIVER, "it arrives, in its sender's own name"),
        ("send_as_the_control_plane", "agent, host", BROKER, UNHELD),
        ("schedule_to_whom_one_may_not_send", "agent", RECEIVER, "whom one may: tests/test_schedules.py"),
        ("anothers_schedules_are_its_own", "host", RECEIVER, DOUBLE),
        ("an_answer_of_the_brokers_among_what_is_due", "host", RECEIVER, DOUBLE),
        ("cancel_anothers_schedule_by_what_the_broker_answers", "agent, host", RECEIVER, "its sender can"),
        ("empty_the_stream_of_schedules", "host", RECEIVER, "it is emptied, and the control plane puts back what lay there"),
    ),
    *_family(
        "redirect",
        ("end_anothers_subscription_by_what_the_broker_answers", "agent, host", BROKER, "an answer lies where no subscription is yet"),
        ("remove_anothers_schema_by_what_the_broker_answers", "agent, host", BROKER, "an answer lies where no version is yet"),
        ("swallow_a_message_as_one_that_was_handled", "agent, host", RECEIVER, UNCHECKED),
        ("say_what_another_is_by_a_message_of_ones_own", "host", RECEIVER, "with the check taken away: see the one before"),
        ("store_messages_where_they_do_not_belong", "host", RECEIVER, "they are stored, and the control plane takes them out"),
        ("fill_anothers_share_with_what_the_broker_answers", "agent", RECEIVER, "it is full, until the control plane takes them out"),
        ("have_anothers_event_stored_again", "agent, host", RECEIVER, DOUBLE),
        ("register_a_schema_for_what_every_agent_says", "agent, host", RECEIVER, "an operator may: SchemaDesk.answer"),
        ("ask_for_what_is_too_long_to_keep", "host", RECEIVER, "shorter ones are taken: tests/test_events.py"),
        ("convert_what_others_have_said", "host", RECEIVER, DOUBLE),
    ),
    *_family(
        "web",
        ("a_bearer_token_that_is_forged", "host", FRONT, DOUBLE),
        ("a_bearer_token_of_who_was_revoked", "host", FRONT, DOUBLE),
        ("inject_by_headers", "host", FRONT, DOUBLE),
        ("inject_by_the_path", "host", FRONT, DOUBLE),
        ("out_of_a_page_in_a_browser", "host", FRONT, DOUBLE),
        ("use_anothers_session_over_http", "host", FRONT, DOUBLE),
        ("reach_through_the_front_what_one_may_not", "agent", BROKER, DOUBLE),
    ),
)  # fmt: skip
