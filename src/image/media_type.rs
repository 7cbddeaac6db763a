//! Media types of both families, and what corresponds to what.

use crate::compress::CompressionAlgorithm;

use super::manifest::ManifestError;

/// The two families of media types. One manifest never mixes them: registries refuse that.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Family {
    /// `application/vnd.oci.image.*`
    #[default]
    Oci,
    /// `application/vnd.docker.*`, schema 2.
    Docker,
}

/// The kinds of blobs an image manifest refers to, whatever the family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Config,
    Layer(CompressionAlgorithm),
    /// Layers that registries do not hold.
    Foreign(CompressionAlgorithm),
}

const ROLES: [(Role, &str, &str); 7] = {
    use CompressionAlgorithm::{Gzip, Uncompressed, Zstd};
    [
        (
            Role::Config,
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.docker.container.image.v1+json",
        ),
        (
            Role::Layer(Gzip),
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ),
        (
            Role::Layer(Uncompressed),
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.docker.image.rootfs.diff.tar",
        ),
        (
            Role::Layer(Zstd),
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.zstd",
        ),
        (
            Role::Foreign(Gzip),
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ),
        (
            Role::Foreign(Uncompressed),
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.docker.image.rootfs.foreign.diff.tar",
        ),
        (
            Role::Foreign(Zstd),
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.zstd",
        ),
    ]
};

impl Family {
    /// The type of an image manifest.
    pub fn manifest(self) -> &'static str {
        match self {
            Family::Oci => "application/vnd.oci.image.manifest.v1+json",
            Family::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    /// The type of an index.
    pub fn index(self) -> &'static str {
        match self {
            Family::Oci => "application/vnd.oci.image.index.v1+json",
            Family::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    /// The type of an image config.
    pub fn config(self) -> &'static str {
        self.name(Role::Config)
    }

    /// The type of a layer.
    pub fn layer(self, compression: CompressionAlgorithm) -> &'static str {
        self.name(Role::Layer(compression))
    }

    /// Whether this is the type of an image's config, of either family.
    pub fn is_config(media_type: &str) -> bool {
        matches!(role(media_type), Some(Role::Config))
    }

    /// The family whose manifest type this is.
    pub fn of_manifest(media_type: &str) -> Option<Family> {
        [Family::Oci, Family::Docker].into_iter().find(|family| family.manifest() == media_type)
    }

    /// The family whose index type this is.
    pub fn of_index(media_type: &str) -> Option<Family> {
        [Family::Oci, Family::Docker].into_iter().find(|family| family.index() == media_type)
    }

    /// The type of the same config or layer in this family.
    pub fn retype(self, media_type: &str) -> Result<&'static str, ManifestError> {
        match role(media_type) {
            Some(role) => Ok(self.name(role)),
            None => Err(ManifestError::MediaType(media_type.to_owned())),
        }
    }

    fn name(self, wanted: Role) -> &'static str {
        let found = ROLES.iter().find(|(role, _, _)| *role == wanted);
        match (self, found) {
            (Family::Oci, Some((_, oci, _))) => oci,
            (Family::Docker, Some((_, _, docker))) => docker,
            (_, None) => "application/octet-stream",
        }
    }
}

/// How a layer of this media type is compressed; `None` where it is no layer's type.
pub fn layer_compression(media_type: &str) -> Option<CompressionAlgorithm> {
    match role(media_type)? {
        Role::Config => None,
        Role::Layer(compression) | Role::Foreign(compression) => Some(compression),
    }
}

/// Whether this is the type of a layer that registries do not hold (foreign, non-distributable).
pub fn is_foreign(media_type: &str) -> bool {
    matches!(role(media_type), Some(Role::Foreign(_)))
}

fn role(media_type: &str) -> Option<Role> {
    ROLES
        .iter()
        .find(|(_, oci, docker)| *oci == media_type || *docker == media_type)
        .map(|(role, _, _)| *role)
}
