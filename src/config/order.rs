//! Which service comes after which.

/// The services in the order in which they start: each after those that it names, else as in the file.
///
/// `after[n]` holds the places of those that number `n` comes after.
///
/// # Errors
///
/// Where there is none: the numbers along a circle, each of which comes after the next, and the last after the first.
pub(super) fn in_order(after: &[Vec<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut order = Vec::with_capacity(after.len());
    let mut done = vec![false; after.len()];
    while order.len() < after.len() {
        let is_next = |number: &usize| !done[*number] && after[*number].iter().all(|earlier| done[*earlier]);
        match (0..after.len()).find(is_next) {
            Some(next) => {
                order.push(next);
                done[next] = true;
            }
            None => return Err(circle(after, &done)),
        }
    }
    Ok(order)
}

/// Each service that is left comes after another one that is left: whoever walks from one to the next must come to a
/// place where they have been.
fn circle(after: &[Vec<usize>], done: &[bool]) -> Vec<usize> {
    let is_left = |number: &usize| !done[*number];
    let mut path: Vec<usize> = Vec::new();
    let mut here = (0..after.len()).find(is_left);
    while let Some(number) = here {
        if let Some(seen) = path.iter().position(|earlier| *earlier == number) {
            return path.split_off(seen);
        }
        path.push(number);
        here = after[number].iter().copied().find(is_left);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_comes_after_those_that_it_names_else_as_in_the_file() {
        for (after, order) in [
            (vec![], vec![]),
            (vec![vec![], vec![], vec![]], vec![0, 1, 2]),
            (vec![vec![2], vec![0], vec![]], vec![2, 0, 1]),
            (vec![vec![3], vec![], vec![1], vec![]], vec![1, 2, 3, 0]),
            (vec![vec![1, 2], vec![2], vec![]], vec![2, 1, 0]),
        ] {
            assert_eq!(in_order(&after), Ok(order), "{after:?}");
        }
    }

    #[test]
    fn a_circle_is_found_without_those_that_only_lead_to_it() {
        assert_eq!(in_order(&[vec![0]]), Err(vec![0]));
        assert_eq!(in_order(&[vec![1], vec![2], vec![1]]), Err(vec![1, 2]));
        assert_eq!(in_order(&[vec![], vec![0, 3], vec![1], vec![2]]), Err(vec![1, 3, 2]));
    }
}
