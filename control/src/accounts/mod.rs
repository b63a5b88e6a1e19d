//! Who used what: sums per function and tenant, for charge-back and metrics.
//!
//! The ring thread adds to a [`Row`] of atomic counters, found by the function's number: nothing is allocated, locked
//! or sent for a call. Everybody else reads the rows whenever they like: [`book`] writes them to disk and cuts them
//! into hours, [`report`] makes them into what an operator sees.
//!
//! What is counted is what the durable queue took as the outcome of a lease. The outcome of a lost lease is fenced and
//! not charged, whatever it cost.

pub mod book;
pub mod report;
mod sums;

pub use book::Book;
pub use report::{Grouping, UsageQuery, UsageReport, UsageRow};
pub use sums::Sums;

use call::limits::Limits;
use call::{FunctionSpec, Status, Usage};
use scheduler::FunctionRef;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How many statuses there are.
pub const STATUSES: usize = Status::ALL.len();

/// What stands for functions and tenants beyond [`Ledger::rows_max`]; no function can be called so.
pub const OTHERS: &str = "(others)";

/// `namespace/name`, and who is charged.
pub type Key = (String, String);

/// Counters of one function under one tenant. Written by the ring thread alone, read by anybody.
#[derive(Debug)]
pub struct Row {
    /// `namespace/name`.
    pub function: String,
    /// Who is charged.
    pub tenant: String,
    cells: Cells,
    /// Log records of it that were dropped since the start. Written by more than one thread.
    logs_dropped: AtomicU64,
}

/// Two cache lines hold everything that a good call touches.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Cells {
    cpu_ns: AtomicU64,
    run_ns: AtomicU64,
    init_ns: AtomicU64,
    cold_starts: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    denied: AtomicU64,
    memory_byte_s: AtomicU64,
    /// Below 10^9.
    memory_rest_byte_ns: AtomicU64,
    /// Executions and calls, by the status's number.
    counts: [[AtomicU64; 2]; STATUSES],
}

const EXECUTIONS: usize = 0;
const CALLS: usize = 1;

/// Adds to a counter that nobody else writes. Saturates: a wrong sum is better seen than small.
fn add(cell: &AtomicU64, more: u64) {
    cell.store(cell.load(Ordering::Relaxed).saturating_add(more), Ordering::Relaxed);
}

fn read(cell: &AtomicU64) -> u64 {
    cell.load(Ordering::Relaxed)
}

impl Row {
    fn new(function: String, tenant: String, sums: &Sums) -> Row {
        let cells = Cells {
            cpu_ns: sums.cpu_ns.into(),
            run_ns: sums.run_ns.into(),
            init_ns: sums.init_ns.into(),
            cold_starts: sums.cold_starts.into(),
            bytes_in: sums.bytes_in.into(),
            bytes_out: sums.bytes_out.into(),
            denied: sums.denied.into(),
            memory_byte_s: sums.memory_byte_s.into(),
            memory_rest_byte_ns: sums.memory_rest_byte_ns.into(),
            counts: std::array::from_fn(|n| [sums.executions[n].into(), sums.calls[n].into()]),
        };
        Row { function, tenant, cells, logs_dropped: AtomicU64::new(0) }
    }

    /// What it has counted so far. Counters of one call may be read one without the other.
    pub fn sums(&self) -> Sums {
        let cells = &self.cells;
        Sums {
            cpu_ns: read(&cells.cpu_ns),
            run_ns: read(&cells.run_ns),
            init_ns: read(&cells.init_ns),
            cold_starts: read(&cells.cold_starts),
            bytes_in: read(&cells.bytes_in),
            bytes_out: read(&cells.bytes_out),
            denied: read(&cells.denied),
            memory_byte_s: read(&cells.memory_byte_s),
            memory_rest_byte_ns: read(&cells.memory_rest_byte_ns),
            executions: std::array::from_fn(|n| read(&cells.counts[n][EXECUTIONS])),
            calls: std::array::from_fn(|n| read(&cells.counts[n][CALLS])),
        }
    }

    /// Log records of it that were dropped since the node's start.
    pub fn logs_dropped(&self) -> u64 {
        read(&self.logs_dropped)
    }

    /// Log records of it were dropped. From any thread.
    pub fn drop_logs(&self, records: u64) {
        self.logs_dropped.fetch_add(records, Ordering::Relaxed);
    }

    /// An execution ended. Of a lost worker nothing but that is known.
    fn executed(&self, status: Status, usage: &Usage) {
        let cells = &self.cells;
        add(&cells.counts[status as usize][EXECUTIONS], 1);
        add(&cells.cpu_ns, usage.cpu_ns);
        add(&cells.run_ns, usage.run_ns);
        if usage.cold {
            add(&cells.cold_starts, 1);
            add(&cells.init_ns, usage.init_ns);
        }
        if usage.bytes_in | usage.bytes_out != 0 {
            add(&cells.bytes_in, usage.bytes_in);
            add(&cells.bytes_out, usage.bytes_out);
        }
        if usage.denied != 0 {
            add(&cells.denied, usage.denied.into());
        }
        let (whole, rest) = sums::seconds(
            u128::from(usage.memory_bytes) * u128::from(usage.run_ns)
                + u128::from(read(&cells.memory_rest_byte_ns)),
        );
        add(&cells.memory_byte_s, whole);
        cells.memory_rest_byte_ns.store(rest, Ordering::Relaxed);
    }
}

/// All rows: one for each function and tenant that was ever deployed here, as far as there is room.
#[derive(Debug)]
pub struct Ledger {
    rows: Mutex<BTreeMap<Key, Arc<Row>>>,
    rows_max: usize,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger::new(rows_max(&Limits::default()))
    }
}

/// Rows of deployed functions, and as many of deleted ones and earlier tenants.
pub fn rows_max(limits: &Limits) -> usize {
    2 * limits.functions_max
}

impl Ledger {
    /// Without rows.
    pub fn new(rows_max: usize) -> Ledger {
        Ledger { rows: Mutex::default(), rows_max }
    }

    /// The row of a function, made if it is missing. When there are as many as there may be, the tenant's row for
    /// [`OTHERS`]; of a tenant without one, that of all others.
    pub fn open(&self, function: &str, tenant: &str) -> Arc<Row> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        // Rows for others come on top, so that there are at most two rows for each that may be.
        for (key, bound) in [
            ((function, tenant), self.rows_max),
            ((OTHERS, tenant), 2 * self.rows_max),
            ((OTHERS, OTHERS), usize::MAX),
        ] {
            let key = (key.0.to_owned(), key.1.to_owned());
            if let Some(row) = rows.get(&key) {
                return row.clone();
            }
            if rows.len() < bound {
                let row = Arc::new(Row::new(key.0.clone(), key.1.clone(), &Sums::default()));
                rows.insert(key, row.clone());
                return row;
            }
        }
        unreachable!("the last bound is no bound")
    }

    /// A row as it was when the node last ended. At the start only: nobody holds rows yet.
    pub fn restore(&self, key: Key, sums: &Sums) {
        let row = Arc::new(Row::new(key.0.clone(), key.1.clone(), sums));
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).insert(key, row);
    }

    /// All rows, by function, then tenant.
    pub fn rows(&self) -> Vec<Arc<Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// What the node knows a deployed function's row by.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    /// Where it is counted.
    pub row: Arc<Row>,
    /// `namespace/name`, which the row of [`OTHERS`] does not tell.
    pub name: Arc<str>,
}

/// The ring thread's side: rows by the function's number.
pub(crate) struct Accounts {
    ledger: Arc<Ledger>,
    by_function: Vec<Option<Account>>,
}

impl Accounts {
    pub fn new(ledger: Arc<Ledger>) -> Accounts {
        Accounts { ledger, by_function: Vec::new() }
    }

    /// A function was deployed. Kept when it is deleted: calls of it may still run.
    pub fn open(&mut self, function: FunctionRef, spec: &FunctionSpec) {
        let place = function.0 as usize;
        if self.by_function.len() <= place {
            self.by_function.resize(place + 1, None);
        }
        let name = format!("{}/{}", spec.namespace, spec.name);
        let row = self.ledger.open(&name, &spec.tenant);
        self.by_function[place] = Some(Account { row, name: name.into() });
    }

    /// The account of a function that is or was deployed.
    pub fn get(&self, function: FunctionRef) -> Option<&Account> {
        self.by_function.get(function.0 as usize)?.as_ref()
    }

    /// An execution ended, its outcome not fenced.
    pub fn executed(&self, function: FunctionRef, status: Status, usage: &Usage) {
        if let Some(account) = self.get(function) {
            account.row.executed(status, usage);
        }
    }

    /// A call ended for good.
    pub fn ended(&self, function: FunctionRef, status: Status) {
        if let Some(account) = self.get(function) {
            add(&account.row.cells.counts[status as usize][CALLS], 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, tenant: &str) -> FunctionSpec {
        FunctionSpec { name: name.into(), tenant: tenant.into(), ..FunctionSpec::default() }
    }

    #[test]
    fn outcomes_add_up_and_small_ones_are_not_rounded_away() {
        let ledger = Arc::new(Ledger::new(8));
        let mut accounts = Accounts::new(ledger.clone());
        accounts.open(FunctionRef(2), &spec("a", "t"));
        let usage = Usage { run_ns: 1_000, cpu_ns: 900, memory_bytes: 64 << 10, ..Usage::default() };
        let cold = Usage { cold: true, init_ns: 7, bytes_in: 3, bytes_out: 5, denied: 4, ..usage };
        for _ in 0..1_000_000 {
            accounts.executed(FunctionRef(2), Status::Ok, &usage);
        }
        accounts.executed(FunctionRef(2), Status::Trap, &cold);
        accounts.ended(FunctionRef(2), Status::Trap);
        accounts.executed(FunctionRef(7), Status::Ok, &usage);
        let sums = ledger.rows()[0].sums();
        assert_eq!((sums.cpu_ns, sums.run_ns), (900_000_900, 1_000_001_000));
        assert_eq!(
            (sums.memory_byte_s, sums.memory_rest_byte_ns),
            (65_536, 65_536_000),
            "64 KiB for a second"
        );
        assert_eq!(
            (sums.cold_starts, sums.init_ns, sums.bytes_in, sums.bytes_out, sums.denied),
            (1, 7, 3, 5, 4)
        );
        assert_eq!((sums.executions[0], sums.executions[Status::Trap as usize]), (1_000_000, 1));
        assert_eq!((sums.calls[0], sums.calls[Status::Trap as usize]), (0, 1));
    }

    #[test]
    fn a_new_tenant_gets_a_row_of_its_own_and_too_many_share_one() {
        let ledger = Arc::new(Ledger::new(3));
        let mut accounts = Accounts::new(ledger.clone());
        accounts.open(FunctionRef(0), &spec("a", "t"));
        accounts.executed(FunctionRef(0), Status::Ok, &Usage::default());
        accounts.open(FunctionRef(0), &spec("a", "u"));
        accounts.executed(FunctionRef(0), Status::Ok, &Usage::default());
        accounts.executed(FunctionRef(0), Status::Ok, &Usage::default());
        for n in 1..100 {
            accounts.open(FunctionRef(n), &spec(&format!("f{n}"), &format!("t{}", n % 50)));
            accounts.executed(FunctionRef(n), Status::Ok, &Usage::default());
        }
        let rows = ledger.rows();
        assert_eq!(rows.len(), 7, "three, three for tenants, one for everybody else");
        assert_eq!(rows.iter().map(|row| row.sums().executions[0]).sum::<u64>(), 3 + 99, "none is lost");
        assert_eq!(rows[0].function, OTHERS);
        let of =
            |tenant: &str| rows.iter().find(|r| r.function == "default/a" && r.tenant == tenant).unwrap();
        assert_eq!((of("t").sums().executions[0], of("u").sums().executions[0]), (1, 2));
    }
}
