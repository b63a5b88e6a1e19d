//! The functions the queue knows, and each one's queue of due calls.

use super::calls::{BY_PLACE, Calls, List, NONE};
use super::ids::{Ids, hash};
use crate::words::{CallRef, FunctionRef};
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
    /// It has got due calls since it was named last: it is in the list of news.
    in_news: bool,
    next_news: u32,
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
            in_news: false,
            next_news: NONE,
        });
        self.ids.insert(hash(u128::from(id.0)), at);
        Some(FunctionRef(at))
    }

    /// Adds a call with a new turn: behind all others.
    pub fn push_due(&mut self, calls: &mut Calls, at: CallRef) {
        let function = calls[at].function;
        self[function].due.push_back(calls, at);
        self.tell(function);
    }

    /// Adds a call that was at the head before: it passes only others that came back before it.
    pub fn restore_due(&mut self, calls: &mut Calls, at: CallRef) {
        let (function, turn) = (calls[at].function, calls[at].turn);
        let due = &self[function].due;
        let next = due.iter(calls).find(|other| calls[*other].turn > turn);
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
