//! Text with `*` and `?` in it.

use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Piece {
    This(char),
    /// `?`
    One,
    /// `*`
    Run,
}

/// What a text is compared with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Pattern {
    pieces: Vec<Piece>,
}

impl Pattern {
    /// Adds a character as it is.
    pub(super) fn push(&mut self, character: char) {
        self.pieces.push(Piece::This(character));
    }

    /// Adds a character as it was typed without a backslash.
    pub(super) fn push_typed(&mut self, character: char) {
        self.pieces.push(match character {
            '*' => Piece::Run,
            '?' => Piece::One,
            other => Piece::This(other),
        });
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// The text, if there is neither `*` nor `?` in it.
    pub(super) fn plain(&self) -> Option<String> {
        let plain = |piece: &Piece| if let Piece::This(character) = piece { Some(*character) } else { None };
        self.pieces.iter().map(plain).collect()
    }

    pub(super) fn has(&self, character: char) -> bool {
        self.pieces.contains(&Piece::This(character))
    }

    /// Whether it is the whole text.
    pub(super) fn is(&self, text: &str) -> bool {
        matches(&self.pieces, text, false, |a, b| a == b)
    }

    /// Whether it is somewhere in the text, whatever the case of ASCII letters.
    pub(super) fn is_in(&self, text: &str) -> bool {
        matches(&self.pieces, text, true, |a, b| a.eq_ignore_ascii_case(&b))
    }
}

/// Goes through both side by side and remembers the last run only: a run that comes later can make up for everything
/// that an earlier one could. Time is at most the product of the lengths. With `anywhere`, as if a run stood at both ends.
fn matches(pieces: &[Piece], text: &str, anywhere: bool, same: impl Fn(char, char) -> bool) -> bool {
    let (mut at, mut rest) = (0, text);
    let mut run = anywhere.then_some((0, text));
    loop {
        let first = rest.chars().next();
        match (pieces.get(at), first) {
            (None, None) => return true,
            (None, Some(_)) if anywhere => return true,
            (Some(Piece::Run), _) => {
                at += 1;
                run = Some((at, rest));
                continue;
            }
            (Some(Piece::One), Some(character)) => {
                (at, rest) = (at + 1, &rest[character.len_utf8()..]);
                continue;
            }
            (Some(Piece::This(wanted)), Some(character)) if same(*wanted, character) => {
                (at, rest) = (at + 1, &rest[character.len_utf8()..]);
                continue;
            }
            _ => {}
        }
        // The last run takes one character more, if there is one.
        let Some((behind, from)) = run else { return false };
        let Some(character) = from.chars().next() else { return false };
        let from = &from[character.len_utf8()..];
        run = Some((behind, from));
        (at, rest) = (behind, from);
    }
}

/// In quotes, so that it is read back as it is.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("'")?;
        for piece in &self.pieces {
            match piece {
                Piece::Run => f.write_str("*")?,
                Piece::One => f.write_str("?")?,
                Piece::This(special @ ('*' | '?' | '\\' | '\'')) => write!(f, "\\{special}")?,
                Piece::This(character) => write!(f, "{character}")?,
            }
        }
        f.write_str("'")
    }
}
