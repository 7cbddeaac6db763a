//! Kaniko's executor as a front door: builds in the shapes of its integration tests through its flags, and what its
//! flags about contexts, registries, caches and results do.

#[path = "support/registry.rs"]
mod registry;
#[path = "support/server.rs"]
mod server;
mod support;

#[path = "kaniko/cases.rs"]
mod cases;
#[path = "kaniko/contexts.rs"]
mod contexts;
#[path = "kaniko/image.rs"]
mod image;
#[path = "kaniko/manifests.rs"]
mod manifests;
#[path = "kaniko/registries.rs"]
mod registries;
#[path = "kaniko/results.rs"]
mod results;
#[path = "kaniko/scene.rs"]
mod scene;
#[path = "kaniko/surroundings.rs"]
mod surroundings;
