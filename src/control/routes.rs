//! The one table of what can be asked for. The OpenAPI document describes the same; a test compares the two.

use super::access::Permission;

/// One thing that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The method.
    pub method: &'static str,
    /// The path; `{id}` stands for a decimal number.
    pub path: &'static str,
    /// What the peer must be allowed to do.
    pub needs: Permission,
    /// What answers it.
    pub(super) endpoint: Endpoint,
}

/// What answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Status,
    Request,
    Upgrades,
    Upgrade,
    Events,
    Feed,
    History,
    Kpi,
    Metrics,
    Abort,
    Promote,
    Scale,
    Stop,
    Pause,
    Resume,
    Reexec,
    Openapi,
}

impl Endpoint {
    /// Whether there can be a query.
    pub(super) fn takes_query(self) -> bool {
        matches!(self, Self::Events | Self::Feed | Self::History | Self::Kpi)
    }
}

/// Everything that can be asked for.
pub const ROUTES: [Route; 17] = [
    Route { method: "GET", path: "/v1/status", needs: Permission::Look, endpoint: Endpoint::Status },
    Route { method: "POST", path: "/v1/upgrades", needs: Permission::Operate, endpoint: Endpoint::Request },
    Route { method: "GET", path: "/v1/upgrades", needs: Permission::Look, endpoint: Endpoint::Upgrades },
    Route { method: "GET", path: "/v1/upgrades/{id}", needs: Permission::Look, endpoint: Endpoint::Upgrade },
    Route { method: "GET", path: "/v1/upgrades/{id}/events", needs: Permission::Look, endpoint: Endpoint::Events },
    Route { method: "GET", path: "/v1/events", needs: Permission::Look, endpoint: Endpoint::Feed },
    Route { method: "GET", path: "/v1/history", needs: Permission::Look, endpoint: Endpoint::History },
    Route { method: "GET", path: "/v1/kpi", needs: Permission::Look, endpoint: Endpoint::Kpi },
    Route { method: "GET", path: "/metrics", needs: Permission::Look, endpoint: Endpoint::Metrics },
    Route { method: "POST", path: "/v1/abort", needs: Permission::Operate, endpoint: Endpoint::Abort },
    Route { method: "POST", path: "/v1/promote", needs: Permission::Operate, endpoint: Endpoint::Promote },
    Route { method: "POST", path: "/v1/scale", needs: Permission::Operate, endpoint: Endpoint::Scale },
    Route { method: "POST", path: "/v1/stop", needs: Permission::Operate, endpoint: Endpoint::Stop },
    Route { method: "POST", path: "/v1/pause", needs: Permission::Operate, endpoint: Endpoint::Pause },
    Route { method: "POST", path: "/v1/resume", needs: Permission::Operate, endpoint: Endpoint::Resume },
    Route { method: "POST", path: "/v1/reexec", needs: Permission::Operate, endpoint: Endpoint::Reexec },
    Route { method: "GET", path: "/v1/openapi.json", needs: Permission::Look, endpoint: Endpoint::Openapi },
];

/// What a method and a path lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    /// This route; the number is what stood for `{id}`, else 0.
    Found(Route, u64),
    /// The path exists, with these methods only.
    WrongMethod(Vec<&'static str>),
    /// There is no such path.
    Unknown,
}

/// Looks a request up.
pub(super) fn look_up(method: &str, path: &str) -> Lookup {
    let mut methods = Vec::new();
    for route in ROUTES {
        let Some(id) = matches(route.path, path) else { continue };
        if route.method == method {
            return Lookup::Found(route, id);
        }
        methods.push(route.method);
    }
    if methods.is_empty() { Lookup::Unknown } else { Lookup::WrongMethod(methods) }
}

fn matches(template: &str, path: &str) -> Option<u64> {
    let mut id = 0;
    let (mut wanted, mut given) = (template.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(id),
            (Some("{id}"), Some(text)) => id = number(text)?,
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return None,
        }
    }
}

/// A decimal number, digits alone.
pub(super) fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_somewhere_or_nowhere() {
        let endpoint = |method, path| match look_up(method, path) {
            Lookup::Found(route, id) => Some((route.endpoint, id)),
            Lookup::WrongMethod(_) | Lookup::Unknown => None,
        };
        assert_eq!(endpoint("GET", "/v1/status"), Some((Endpoint::Status, 0)));
        assert_eq!(endpoint("GET", "/v1/upgrades/17"), Some((Endpoint::Upgrade, 17)));
        assert_eq!(endpoint("GET", "/v1/upgrades/17/events"), Some((Endpoint::Events, 17)));
        assert_eq!(look_up("DELETE", "/v1/upgrades"), Lookup::WrongMethod(vec!["POST", "GET"]));
        assert_eq!(look_up("get", "/v1/status"), Lookup::WrongMethod(vec!["GET"]));
        for nowhere in [
            "",
            "/",
            "*",
            "/v1",
            "/v1/",
            "/v1/status/",
            "//v1/status",
            "/v2/status",
            "/v1/upgrades/",
            "/v1/upgrades/x",
            "/v1/upgrades/+1",
            "/v1/upgrades/-1",
            "/v1/upgrades/18446744073709551616",
            "/v1/upgrades/1/",
            "/v1/upgrades/{id}",
        ] {
            assert_eq!(look_up("GET", nowhere), Lookup::Unknown, "{nowhere}");
        }
    }
}
