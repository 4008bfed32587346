package producer

// Sweep does what is else done every idleCheck.
func (p *Producer) Sweep() { p.sweep() }
