//! One order to all regions or shards: what is said about a function or a service holds wherever its calls may run.

use crate::admin::Admin;
use crate::exit::{Exit, Failure};
use crate::settings::{Connection, Environment};

/// What became of an order.
pub struct Everywhere<T> {
    /// What those answered that did it, in order.
    pub done: Vec<T>,
    /// What they are: `region` or `shard`.
    kind: &'static str,
    /// Those that did not, and why.
    refused: Vec<(String, Failure)>,
}

impl<T> Everywhere<T> {
    /// Orders something of the node; of all regions or shards, if the data directory is of several and no other node is
    /// named.
    ///
    /// # Errors
    /// There is one node, and it did not do it; it is not known where the node is.
    pub fn order(
        node: &Connection,
        environment: &Environment,
        order: impl Fn(&Admin) -> Result<T, Failure>,
    ) -> Result<Everywhere<T>, Failure> {
        let (kind, places) = node.everyone(environment)?;
        if places.is_empty() {
            let done = vec![order(&node.admin(environment)?)?];
            return Ok(Everywhere { done, kind, refused: Vec::new() });
        }
        let (mut done, mut refused) = (Vec::new(), Vec::new());
        for (name, admin) in places {
            match admin.and_then(|admin| order(&admin)) {
                Ok(answer) => done.push(answer),
                Err(failure) => refused.push((name, failure)),
            }
        }
        Ok(Everywhere { done, kind, refused })
    }

    /// Counts a place as done in which there was nothing to do it to, if there was in another one: so that what was
    /// half done can be said again.
    pub fn or_absent(mut self) -> Everywhere<T> {
        let is_absent = |(_, failure): &(String, Failure)| failure.exit == Exit::NotFound;
        if !self.done.is_empty() || !self.refused.iter().all(is_absent) {
            self.refused.retain(|refused| !is_absent(refused));
        }
        self
    }

    /// # Errors
    /// Those that did not do it, by name, with the first one's reason.
    pub fn end(self) -> Result<(), Failure> {
        let names: Vec<&str> = self.refused.iter().map(|(name, _)| name.as_str()).collect();
        let (places, all) = (names.join(", "), self.done.len() + self.refused.len());
        let Some((_, first)) = self.refused.into_iter().next() else { return Ok(()) };
        let what = format!("{} of {all} {}s did it: {}", self.done.len(), self.kind, first.what);
        let remedy = "what others did holds there; say it again when these can do it, too";
        Err(Failure::new(first.exit, what, format!("{} {places}", self.kind), remedy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(name: &str, exit: Exit) -> (String, Failure) {
        (name.into(), Failure::new(exit, "away", "", ""))
    }

    #[test]
    fn a_region_that_refused_is_named() {
        let half = Everywhere {
            done: vec![1],
            kind: "region",
            refused: vec![refused("b", Exit::Connect), refused("c", Exit::Refused)],
        };
        let failure = half.end().unwrap_err();
        assert_eq!(failure.exit, Exit::Connect);
        let text = failure.to_string();
        assert!(text.contains("1 of 3 regions did it: away") && text.contains("region b, c"), "{text}");
        assert!(Everywhere { done: vec![1, 2], kind: "region", refused: Vec::new() }.end().is_ok());
    }

    #[test]
    fn what_is_absent_somewhere_was_done_there_before() {
        let absent = || refused("b", Exit::NotFound);
        assert!(
            Everywhere { done: vec![1], kind: "shard", refused: vec![absent()] }.or_absent().end().is_ok()
        );
        let nowhere = Everywhere::<()> { done: Vec::new(), kind: "shard", refused: vec![absent(), absent()] };
        assert_eq!(nowhere.or_absent().end().unwrap_err().exit, Exit::NotFound);
        let away = Everywhere::<()> {
            done: Vec::new(),
            kind: "shard",
            refused: vec![absent(), refused("c", Exit::Connect)],
        };
        assert_eq!(away.or_absent().end().unwrap_err().exit, Exit::Connect);
    }
}
