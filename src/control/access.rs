//! Who may do what, by the credentials that the kernel gives of the other end of the socket.

use serde::{Deserialize, Serialize};

use crate::sys::peer::Credentials;

/// What a request needs, and what a peer has. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// Nothing at all.
    Nothing,
    /// To read what there is.
    Look,
    /// To change something.
    Operate,
}

/// Who may do what. Root and the supervisor's own user may do all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// The supervisor's own user.
    pub uid: u32,
    /// Groups whose members may operate, and look.
    pub operators: Vec<u32>,
    /// Groups whose members may look.
    pub viewers: Vec<u32>,
}

impl Access {
    /// What this peer may do.
    #[must_use]
    pub fn permission(&self, peer: &Credentials) -> Permission {
        let is_in = |groups: &[u32]| groups.contains(&peer.gid) || peer.groups.iter().any(|gid| groups.contains(gid));
        if peer.uid == 0 || peer.uid == self.uid || is_in(&self.operators) {
            Permission::Operate
        } else if is_in(&self.viewers) {
            Permission::Look
        } else {
            Permission::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Credentials {
        Credentials { pid: None, uid, gid, groups: groups.to_vec() }
    }

    #[test]
    fn users_and_groups() {
        let access = Access { uid: 1000, operators: vec![50], viewers: vec![60, 61] };
        let table = [
            (peer(0, 0, &[]), Permission::Operate),
            (peer(1000, 1000, &[]), Permission::Operate),
            (peer(1001, 50, &[]), Permission::Operate),
            (peer(1001, 1001, &[7, 50]), Permission::Operate),
            (peer(1001, 1001, &[61, 50]), Permission::Operate),
            (peer(1001, 60, &[]), Permission::Look),
            (peer(1001, 1001, &[7, 61]), Permission::Look),
            (peer(1001, 1001, &[1000, 0]), Permission::Nothing),
            (peer(1001, 0, &[]), Permission::Nothing),
        ];
        for (peer, expected) in table {
            assert_eq!(access.permission(&peer), expected, "{peer:?}");
        }
    }

    #[test]
    fn without_groups_only_root_and_the_own_user() {
        let access = Access { uid: 1000, ..Access::default() };
        assert_eq!(access.permission(&peer(1001, 0, &[0])), Permission::Nothing);
    }
}
