//! The matrix T_ij: what the schedulers of all regions read.

use crate::words::{GroupRef, Permille, RegionRef};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A whole row: a region's pulls.
pub(crate) const WHOLE: u16 = 1000;

/// For each function group and each region i, the share of its pulls that i takes from each region j.
///
/// As JSON: `{"regions": R, "groups": G, "shares": [...]}` with G x R x R thousandths, by group, then by the region
/// that pulls, then by the region that is pulled from. What is read from JSON has that many, and each row sums to 1000.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Matrix {
    regions: u16,
    groups: u16,
    shares: Vec<u16>,
}

/// A matrix as it comes from another process.
#[derive(Deserialize)]
struct Unchecked {
    regions: u16,
    groups: u16,
    shares: Vec<u16>,
}

/// Why a matrix from another process is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShapeError {
    /// So many shares are not groups x regions x regions.
    Count(usize),
    /// The row of this group and region does not sum to 1000.
    Row(GroupRef, RegionRef),
}

impl fmt::Display for ShapeError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShapeError::Count(count) => write!(to, "{count} shares are not groups x regions x regions"),
            ShapeError::Row(group, region) => {
                write!(to, "the shares of group {} and region {} do not sum to 1000", group.0, region.0)
            }
        }
    }
}

impl std::error::Error for ShapeError {}

impl TryFrom<Unchecked> for Matrix {
    type Error = ShapeError;
    fn try_from(from: Unchecked) -> Result<Matrix, ShapeError> {
        let Unchecked { regions, groups, shares } = from;
        let (wide, long) = (usize::from(regions), usize::from(groups));
        if regions == 0 || shares.len() != long * wide * wide {
            return Err(ShapeError::Count(shares.len()));
        }
        for (at, row) in shares.chunks(wide).enumerate() {
            if row.iter().map(|share| u64::from(*share)).sum::<u64>() != u64::from(WHOLE) {
                return Err(ShapeError::Row(GroupRef((at / wide) as u16), RegionRef((at % wide) as u16)));
            }
        }
        Ok(Matrix { regions, groups, shares })
    }
}

impl Matrix {
    /// Each region pulls from itself only: safe without any controller.
    ///
    /// # Panics
    /// If there are no regions or groups, or more than 65,535.
    pub fn identity(regions: usize, groups: usize) -> Matrix {
        assert!(regions > 0 && groups > 0, "a matrix of {regions} regions and {groups} groups");
        let mut shares = vec![0; groups * regions * regions];
        for row in 0..groups * regions {
            shares[row * regions + row % regions] = WHOLE;
        }
        let fits = |count| u16::try_from(count).expect("regions and groups are numbered with 16 bits");
        Matrix { regions: fits(regions), groups: fits(groups), shares }
    }

    /// Regions and groups.
    pub fn shape(&self) -> (usize, usize) {
        (usize::from(self.regions), usize::from(self.groups))
    }

    /// The shares of one region's pulls for one group, by the region that is pulled from.
    pub fn row(&self, group: GroupRef, by: RegionRef) -> &[u16] {
        let regions = usize::from(self.regions);
        assert!(by.0 < self.regions, "{by:?} of {regions}");
        let start = (usize::from(group.0) * regions + usize::from(by.0)) * regions;
        &self.shares[start..start + regions]
    }

    /// Of its pulls for this group, region `by` takes this part from region `from`.
    pub fn share(&self, group: GroupRef, by: RegionRef, from: RegionRef) -> Permille {
        u32::from(self.row(group, by)[usize::from(from.0)])
    }

    pub(crate) fn group_mut(&mut self, group: usize) -> &mut [u16] {
        let cells = usize::from(self.regions).pow(2);
        &mut self.shares[group * cells..(group + 1) * cells]
    }

    /// Panics if a row does not sum to 1000.
    pub fn check(&self) {
        for row in self.shares.chunks(usize::from(self.regions)) {
            let sum: u32 = row.iter().map(|share| u32::from(*share)).sum();
            assert_eq!(sum, u32::from(WHOLE), "a row of shares sums to {sum}: {row:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_crosses_as_json_and_a_wrong_one_does_not() {
        let matrix = Matrix::identity(2, 2);
        let text = serde_json::to_string(&matrix).unwrap();
        assert_eq!(text, r#"{"regions":2,"groups":2,"shares":[1000,0,0,1000,1000,0,0,1000]}"#);
        assert_eq!(serde_json::from_str::<Matrix>(&text).unwrap(), matrix);
        let error = |text: &str| serde_json::from_str::<Matrix>(text).unwrap_err().to_string();
        let short = r#"{"regions":2,"groups":1,"shares":[1000,0,0]}"#;
        assert!(error(short).contains("3 shares are not groups x regions x regions"));
        let wrong = r#"{"regions":2,"groups":1,"shares":[1000,0,900,0]}"#;
        assert!(error(wrong).contains("group 0 and region 1 do not sum to 1000"));
        assert!(error(r#"{"regions":0,"groups":0,"shares":[]}"#).contains("0 shares"));
    }

    #[test]
    #[should_panic(expected = "a row of shares sums to 999")]
    fn canary_sum() {
        let mut matrix = Matrix::identity(3, 1);
        matrix.group_mut(0)[4] = 999;
        matrix.check();
    }
}
