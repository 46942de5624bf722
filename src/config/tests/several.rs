//! Several services in one file.

use super::*;

fn names(config: &Config) -> Vec<&str> {
    config.in_order().into_iter().map(|service| service.name.as_str()).collect()
}

#[test]
fn services_stand_in_the_order_of_the_file_and_start_after_those_that_they_name() {
    let config = good(
        "[supervisor]\natomic = true\n[service.web]\ncommand = [\"web\"]\nafter = [\"api\", \"db\"]\n\
         [service.api]\ncommand = [\"api\"]\nafter = [\"db\"]\n[service.mail]\ncommand = [\"mail\"]\n\
         [service.db]\ncommand = [\"db\"]\n",
    );
    assert!(config.atomic);
    let in_file: Vec<_> = config.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(in_file, ["web", "api", "mail", "db"]);
    assert_eq!(config.services[0].after, ["api", "db"]);
    assert_eq!(names(&config), ["mail", "db", "api", "web"]);
}

#[test]
fn listeners_of_two_services_must_not_overlap() {
    let two = |one: &str, other: &str| {
        load_text(&format!(
            "{MINIMAL}[[service.web.listen]]\n{one}\n[service.api]\ncommand = [\"api\"]\n[[service.api.listen]]\n{other}\n"
        ))
    };
    for (one, other) in [
        ("address = \"80\"", "address = \"81\""),
        ("address = \"80\"", "address = \"udp:80\""),
        ("address = \"127.0.0.1:0\"", "address = \"127.0.0.1:0\""),
        ("name = \"http\"\naddress = \"80\"", "name = \"http\"\naddress = \"81\""),
    ] {
        assert!(two(one, other).is_ok(), "{one} {other}");
    }
    for (one, other) in [
        ("address = \"80\"", "address = \"[::]:80\""),
        ("address = \"unix:/run/a\"", "address = \"unix:/run/a\""),
        ("address = \"127.0.0.1:80\"", "address = \"0.0.0.0:80\""),
        ("address = \"80\"\nreuse-port = true", "address = \"80\"\nreuse-port = true"),
    ] {
        assert!(two(one, other).is_err(), "{one} {other}");
    }
}

#[test]
fn the_example() {
    let text = include_str!("../../../examples/services.toml");
    let config = super::super::parse(text, std::path::Path::new("/examples/services.toml"), None).expect("valid");
    assert_eq!(names(&config), ["db", "api", "web"]);
    assert!(config.atomic);
}
