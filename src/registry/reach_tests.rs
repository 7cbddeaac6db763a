//! Servers that lead to this machine, and credentials on their way to a token service.

use ureq::config::Config;
use ureq::unversioned::resolver::{DefaultResolver, Resolver as _};
use ureq::unversioned::transport::NextTimeout;

use super::bench::{Bench, MANIFEST, MANIFEST_TYPE, Outcome, refusal, signed_in};
use super::fault_server::{FaultServer, outward_address, reply};
use super::reach::{Guard, Seen};
use super::*;

/// A server of this machine that trusts whoever reaches it.
fn victim() -> std::io::Result<FaultServer> {
    FaultServer::start(|_, _, stream| reply(stream, 200, &[MANIFEST_TYPE], MANIFEST))
}

/// Ways to write an address of this machine with a port.
fn forms(host: &str) -> Vec<String> {
    let port = host.rsplit(':').next().unwrap_or_default();
    let hosts =
        ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]"];
    hosts.iter().map(|host| format!("http://{host}:{port}/x")).collect()
}

#[test]
fn a_registry_elsewhere_cannot_redirect_to_this_machine() -> Outcome {
    let Some(address) = outward_address() else { return Ok(()) };
    let victim = victim()?;
    for place in forms(&victim.host()) {
        let to = place.clone();
        let server = FaultServer::start_at(address, move |_, _, stream| {
            reply(stream, 307, &[("Location", &to)], b"")
        })?;
        let options = RegistryOptions { insecure: true, ..RegistryOptions::default() };
        let error =
            Bench::with(&server.host(), options)?.manifest("latest").err().ok_or("it was followed")?;
        assert!(error.to_string().contains("this machine"), "{place}: {error}");
        assert!(!error.is_transient());
    }
    assert_eq!(victim.requests().len(), 0);
    Ok(())
}

#[test]
fn a_token_service_on_this_machine_is_for_registries_on_this_machine() -> Outcome {
    let Some(address) = outward_address() else { return Ok(()) };
    let victim = victim()?;
    let challenge = format!("Bearer realm=\"http://{}/token\"", victim.host());
    let ask = move |_: usize, _: &fault_server::Received, stream: &mut std::net::TcpStream| {
        refusal(stream, 401, &[("WWW-Authenticate", &challenge)])
    };
    let options = RegistryOptions { insecure: true, ..RegistryOptions::default() };
    let elsewhere = FaultServer::start_at(address, ask.clone())?;
    let error = Bench::with(&elsewhere.host(), options.clone())?.manifest("latest").err().ok_or("asked")?;
    assert!(error.to_string().contains("this machine"), "{error}");
    assert_eq!(victim.requests().len(), 0);
    let here = FaultServer::start(ask)?;
    assert!(Bench::with(&here.host(), options)?.manifest("latest").is_err());
    assert_eq!(victim.count("/token"), 1);
    Ok(())
}

#[test]
fn sources_kept_off_this_machine_are_not_even_asked_there() -> Outcome {
    let server = victim()?;
    for network in [SourceNetwork::Remote, SourceNetwork::Public] {
        let options = RegistryOptions { network, ..RegistryOptions::default() };
        for host in [server.host(), server.host().replace("127.0.0.1", "localhost")] {
            let error = Bench::with(&host, options.clone())?.manifest("latest").err().ok_or("asked")?;
            assert!(error.to_string().contains("--source-network="), "{error}");
        }
    }
    assert_eq!(server.requests().len(), 0);
    assert!(Bench::new(&server)?.manifest("latest").is_ok());
    Ok(())
}

/// The name is judged by what it means when the connection is made, not when it was written.
#[test]
fn names_are_judged_by_the_addresses_they_lead_to() -> Outcome {
    let config = Config::default();
    let look_up = |led: bool| {
        let guard = Guard {
            network: SourceNetwork::Any,
            led,
            seen: std::sync::Arc::new(Seen::default()),
            inner: DefaultResolver::default(),
        };
        let timeout = NextTimeout {
            after: ureq::unversioned::transport::time::Duration::from_secs(20),
            reason: ureq::Timeout::Resolve,
            per_read: None,
            per_write: None,
        };
        guard
            .resolve(&"http://localhost:80/".parse().unwrap_or_default(), &config, timeout)
            .map(|all| all.len())
    };
    assert!(look_up(false).is_ok_and(|found| found > 0));
    let error = look_up(true).err().ok_or("it was allowed")?;
    assert!(error.to_string().contains("localhost, which is"), "{error}");
    Ok(())
}

#[test]
fn credentials_go_over_plain_http_to_the_registrys_own_host_only() -> Outcome {
    let service = FaultServer::start(|_, _, stream| reply(stream, 200, &[], b"{\"token\":\"t\"}"))?;
    let port = service.host().rsplit(':').next().unwrap_or_default().to_owned();
    for (realm, secret, asked) in [
        ("localhost", true, false),
        ("127.0.0.2", true, false),
        ("127.0.0.1", true, true),
        ("localhost", false, true),
    ] {
        let challenge = format!("Bearer realm=\"http://{realm}:{port}/token\"");
        let server = FaultServer::start(move |_, request, stream| match request.header("authorization") {
            Some("Bearer t") => reply(stream, 200, &[MANIFEST_TYPE], MANIFEST),
            _ => refusal(stream, 401, &[("WWW-Authenticate", &challenge)]),
        })?;
        let (_dir, options) = signed_in(&server.host(), r#"{"username":"u","password":"hunter2"}"#)?;
        let options = if secret { options } else { RegistryOptions::default() };
        let before = service.requests().len();
        let result = Bench::with(&server.host(), options)?.manifest("latest");
        assert_eq!((result.is_ok(), service.requests().len() > before), (asked, asked), "{realm} {secret}");
        if let Err(error) = result {
            assert!(error.to_string().contains("plain http"), "{error}");
        }
    }
    Ok(())
}
