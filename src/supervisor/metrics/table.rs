//! Every metric there is. The manual, the dashboard and the alert rules speak of these and no others; a test compares.

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// What may rise and fall.
    Gauge,
    /// What only rises; its sample ends in `_total`.
    Counter,
    /// How values are spread; its samples end in `_bucket`, `_sum` and `_count`.
    Histogram,
}

/// A metric, without what its samples add to the name.
#[derive(Debug)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
}

macro_rules! metrics {
    ($($name:ident $kind:ident $text:literal $help:literal;)*) => {
        $(pub(super) const $name: Metric = Metric { name: $text, kind: Kind::$kind, help: $help };)*
        #[cfg(test)]
        pub(super) const ALL: &[Metric] = &[$($name),*];
    };
}

metrics! {
    BUILD Gauge "zdsup_build_info" "The version and the name of the supervisor, as labels; always 1.";
    HOLDING Gauge "zdsup_holding" "1 where the supervisor only holds what runs, and does nothing else.";
    STOPPING Gauge "zdsup_stopping" "1 while everything is being ended.";
    START_TIME Gauge "zdsup_start_time_seconds" "When the supervisor was started, its predecessors included.";
    INCARNATION Gauge "zdsup_incarnation" "How many supervisors there have been in its place: rises with a reexec or a death.";
    MEMORY Gauge "zdsup_resident_memory_bytes" "Resident memory of the supervisor.";
    FDS Gauge "zdsup_open_fds" "Descriptors that the supervisor has open.";
    LINES_DROPPED Counter "zdsup_output_lines_dropped" "Lines of output and log that nobody read in time.";
    HISTORY_LOST Counter "zdsup_history_lines_lost" "Lines of the history that the disk did not take.";
    STATE Gauge "zdsup_service_state" "1 for the state that a service is in, 0 for the others.";
    GENERATION Gauge "zdsup_service_generation" "The generation that new connections go to.";
    UPGRADING Gauge "zdsup_service_upgrading" "1 while an upgrade is in flight.";
    DESIRED Gauge "zdsup_instances_desired" "Processes that the serving generation is meant to have.";
    READY Gauge "zdsup_instances_ready" "Processes that are ready of it, and of what replaces it piece by piece.";
    DRAINING Gauge "zdsup_draining_generations" "Generations that are on their way out.";
    RESTARTS Counter "zdsup_restarts" "Times that a process of a serving generation was started again after it had failed.";
    UPGRADES Counter "zdsup_upgrades" "Upgrades, by verdict.";
    UPGRADE Histogram "zdsup_upgrade_duration_seconds" "From the beginning of an upgrade that succeeded to its verdict.";
    ROLLBACK Histogram "zdsup_rollback_duration_seconds" "Until the traffic was back at a release that is well.";
    DRAIN Histogram "zdsup_drain_duration_seconds" "From when a generation that served was told to stop until it was gone.";
    LAST_TIME Gauge "zdsup_last_upgrade_timestamp_seconds" "When the latest upgrade that ended had its verdict.";
    LAST_VERDICT Gauge "zdsup_last_upgrade_verdict" "1 for that verdict, 0 for the others.";
    LAST_SUCCESS Gauge "zdsup_last_upgrade_success" "1 where that verdict was `upgraded`.";
    QUEUE Gauge "zdsup_listener_queue_length" "Connections that wait to be accepted.";
    BACKLOG Gauge "zdsup_listener_backlog" "How many may wait.";
    FULLEST Gauge "zdsup_listener_fullest_queue_ratio" "How full the fullest of its queues is, from 0 to 1: with steered traffic each process has one.";
    OVERFLOWS Counter "zdsup_host_listen_overflows" "Connections that found a full accept queue, at any TCP listener of this network namespace.";
    DROPS Counter "zdsup_host_listen_drops" "Connections that were dropped before they could be accepted, likewise.";
}
