package metadata

// Wish is what people and tools ask for: the cluster that a topic shall be on. Node: topics/{topic}.
type Wish struct {
	Cluster string `json:"cluster"`
	Extra   Extra  `json:"-"`
}

// ParseWish reads a Wish.
func ParseWish(data []byte) (Wish, error) {
	var w Wish
	err := parseDocument("wish", data, &w, false)
	return w, err
}

// Validate names every bad field.
func (w Wish) Validate() error {
	var p problems
	p.name("cluster", w.Cluster)
	return p.err("wish")
}

// MarshalJSON writes the document with its Extra.
func (w Wish) MarshalJSON() ([]byte, error) { return encodeObject(w, w.Extra) }

// UnmarshalJSON reads it without validating.
func (w *Wish) UnmarshalJSON(b []byte) (err error) {
	w.Extra, err = decodeObject(b, w)
	return err
}
