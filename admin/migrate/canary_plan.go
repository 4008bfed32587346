package migrate

import "slices"

// canary looks at the part that is to go first.
func (p *preflight) canary() {
	c := p.plan.Canary
	if c == nil {
		return
	}
	if problem := c.problem(); problem != "" {
		p.find(Error, BadRequest, "give one of percent (1 to 100), instances and keys (two hashes of 0 to 65535)", "canary: %s", problem)
		return
	}
	switch {
	case p.plan.Ordered && len(c.Keys) == 0:
		p.find(Error, CanaryKeys, "take a range of keys (--canary-keys 0-6553), or move it with --unordered and --accept "+OrderNotKept,
			"the topic has order \"key\", and two instances that send the same key to two clusters would lose it: a canary of it is a range of keys")
	case p.plan.Ordered:
		p.find(Warning, CanaryOrder, "accept, if such processes are not to be expected, or move it without a canary",
			"while it lasts %s is not closed: a process that has lost ZooKeeper, or was stopped between choosing a cluster and sending, sends keys of the range there when others of them are on %s already; and a group that begins to read meanwhile, or is set back, reads both at once. Nothing is lost by that, but the order of such keys",
			p.now.Route.Write, p.plan.To)
	}
	senders := p.now.senders()
	var strange []string
	for _, id := range c.Instances {
		if !slices.Contains(senders, id) {
			strange = append(strange, id)
		}
	}
	switch {
	case len(strange) > 0:
		p.find(Warning, CanaryInstances, "see the names with: turnout topic get "+p.plan.Topic, "no instance with this name sends to the topic now: %s", some(strange))
	case len(senders) == 0:
		p.find(Info, CanaryInstances, "", "nobody sends to the topic now")
	}
}
