//! The functions the queue knows, and each one's queue of due calls.

use super::calls::{Calls, NONE};
use super::ids::{Ids, hash};
use super::list::{BY_PLACE, List};
use crate::words::{CallRef, FunctionRef, Rules};
use call::FunctionId;

/// One function.
#[derive(Debug)]
pub struct Function {
    /// Its id.
    pub id: FunctionId,
    /// Due calls in the order of their turns.
    pub due: List<BY_PLACE>,
    /// Appended or scheduled calls.
    pub scheduled: u32,
    /// Calls with the scheduler.
    pub offered: u32,
    /// Calls with a core.
    pub leased: u32,
    /// Dead letters.
    pub dead: u32,
    /// None of its calls is offered.
    pub paused: bool,
    /// What it says about its calls.
    pub rules: Rules,
    /// Bytes of the submit frames of its pending calls.
    pub bytes: u64,
    /// It has got due calls since it was named last: it is in the list of news.
    in_news: bool,
    next_news: u32,
    /// Some of its first due calls may be on disk only: it is in the list of those that want frames.
    wants: bool,
    next_wants: u32,
    /// Calls polled.
    pub polled: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Functions {
    functions: Vec<Function>,
    ids: Ids,
    functions_max: usize,
    /// Functions with new due calls, the one that got them first at the head.
    news_head: u32,
    news_tail: u32,
    /// Functions that want frames.
    wants_head: u32,
    wants_tail: u32,
}

impl Functions {
    /// Room for so many.
    pub fn new(functions_max: usize) -> Functions {
        Functions {
            functions: Vec::with_capacity(functions_max),
            ids: Ids::new(functions_max),
            functions_max,
            news_head: NONE,
            news_tail: NONE,
            wants_head: NONE,
            wants_tail: NONE,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.functions.len()
    }

    /// The number of a function.
    pub fn find(&self, id: FunctionId) -> Option<FunctionRef> {
        let is = |at: u32| self.functions[at as usize].id == id;
        self.ids.find(hash(u128::from(id.0)), is).map(FunctionRef)
    }

    /// The number of a function, given now if it has none and there is room.
    pub fn intern(&mut self, id: FunctionId) -> Option<FunctionRef> {
        if let Some(at) = self.find(id) {
            return Some(at);
        }
        if self.functions.len() == self.functions_max {
            return None;
        }
        let at = self.functions.len() as u32;
        let due = List::EMPTY;
        let (scheduled, offered, leased, dead) = (0, 0, 0, 0);
        self.functions.push(Function {
            id,
            due,
            scheduled,
            offered,
            leased,
            dead,
            paused: false,
            rules: Rules::default(),
            bytes: 0,
            in_news: false,
            next_news: NONE,
            wants: false,
            next_wants: NONE,
            polled: 0,
        });
        self.ids.insert(hash(u128::from(id.0)), at);
        Some(FunctionRef(at))
    }

    /// Adds a call with a new turn: behind all others.
    pub fn push_due(&mut self, calls: &mut Calls, at: CallRef) {
        let function = calls[at].function();
        self[function].due.push_back(calls, at);
        self.tell(function);
    }

    /// Adds a call that was at the head before: it passes only others that came back before it.
    pub fn restore_due(&mut self, calls: &mut Calls, at: CallRef) {
        let (function, turn) = (calls[at].function(), calls[at].turn());
        let due = &self[function].due;
        let next = due.iter(calls).find(|other| calls[*other].turn() > turn);
        self[function].due.insert_before(calls, next.map_or(NONE, |next| next.0), at);
        self.tell(function);
    }

    /// The next function that has got due calls since it was named last.
    pub fn next_news(&mut self) -> Option<FunctionRef> {
        while self.news_head != NONE {
            let at = FunctionRef(self.news_head);
            let function = &mut self[at];
            function.in_news = false;
            let (next, empty, paused) = (function.next_news, function.due.len == 0, function.paused);
            self.news_head = next;
            if !empty && !paused {
                return Some(at);
            }
        }
        None
    }

    /// Puts a function behind those that want frames of their first due calls.
    pub fn want(&mut self, at: FunctionRef) {
        if std::mem::replace(&mut self[at].wants, true) {
            return;
        }
        self[at].next_wants = NONE;
        match self.wants_head {
            NONE => self.wants_head = at.0,
            _ => {
                let tail = FunctionRef(self.wants_tail);
                self[tail].next_wants = at.0;
            }
        }
        self.wants_tail = at.0;
    }

    /// Whether a function wants frames.
    pub fn has_wanting(&self) -> bool {
        self.wants_head != NONE
    }

    /// The function that has wanted frames for the longest time; it is named once.
    pub fn next_wanting(&mut self) -> Option<FunctionRef> {
        let at = FunctionRef((self.wants_head != NONE).then_some(self.wants_head)?);
        self.wants_head = self[at].next_wants;
        self[at].wants = false;
        Some(at)
    }

    /// Names a function at the next opportunity.
    pub fn tell(&mut self, at: FunctionRef) {
        if std::mem::replace(&mut self[at].in_news, true) {
            return;
        }
        self[at].next_news = NONE;
        match self.news_head {
            NONE => self.news_head = at.0,
            _ => {
                let tail = FunctionRef(self.news_tail);
                self[tail].next_news = at.0;
            }
        }
        self.news_tail = at.0;
    }
}

impl std::ops::Index<FunctionRef> for Functions {
    type Output = Function;
    fn index(&self, at: FunctionRef) -> &Function {
        &self.functions[at.0 as usize]
    }
}

impl std::ops::IndexMut<FunctionRef> for Functions {
    fn index_mut(&mut self, at: FunctionRef) -> &mut Function {
        &mut self.functions[at.0 as usize]
    }
}
