//! Planted bugs: one for each checker, to show that it can fail.

/// A planted bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Bug {
    /// None.
    #[default]
    None,
    /// The node's disk tells writes to be done that a crash can still lose: it acknowledges before the sync.
    AcknowledgesBeforeSync,
    /// The node tells an outcome twice.
    DoublesOutcome,
    /// The node tells an outcome under the epoch of an older lease.
    IgnoresEpoch,
    /// The node leases a call again while its lease lives.
    LeasesTwice,
    /// The node leases a call that no client made.
    InventsCall,
    /// The node changes a byte of the client's frame and sums it again.
    ReencodesCall,
    /// The node sends leases that the core has not granted.
    ExceedsCredits,
    /// The node's clock is an hour ahead: calls start early.
    StartsEarly,
    /// The node does not hear that its clock was set.
    IgnoresClockSteps,
    /// The node lets a function run wider than its manifest says.
    ExceedsConcurrency,
    /// The node holds more calls than its limit.
    ExceedsCalls,
    /// The node chooses among one call at a time, so that no order is kept.
    IgnoresCriticality,
    /// Some outcomes of cores vanish, the connection stands.
    LosesOutcomes,
    /// A core does not hear that a call which waited is ready.
    LosesWakeups,
    /// An acknowledged call is told to have failed although it ran well.
    InventsFailure,
    /// The node says less of a dead letter's attempts than it knows.
    ForgetsAttempts,
    /// Bits that rot change the checksums with them: nobody can see it.
    IgnoresChecksums,
    /// The node goes on past damage of its log and does not say what is lost.
    HidesLosses,
    /// The node does not say that a frame which it read back is damaged.
    HidesDamage,
}
