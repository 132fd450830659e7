package schedulerv1

// MaxAvoid bounds the workers that one question for a route may exclude: a client
// that cannot use so many has another problem than the next one would solve.
const MaxAvoid = 64
