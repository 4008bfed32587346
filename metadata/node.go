package metadata

// Node is what was read of one node. Paths are without the chroot.
type Node struct {
	Path           string
	Exists         bool // false: only Path and Session are set
	Data           []byte
	Czxid          Zxid // the change that created it
	Mzxid          Zxid // the change that last wrote its data
	Pzxid          Zxid // the change that last added or removed a child
	Version        int32
	NumChildren    int32
	EphemeralOwner int64 // the session that owns it; 0: persistent
	Session        int64 // in which it was read; 0: from the snapshot
}

// located is a document that takes something from the node it was read from.
type located interface{ locate(Node) }
