package coord_test

func child() {}
